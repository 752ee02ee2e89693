//! `make demo`: a guest that rewrites its write buffers in flight, on a disk served without stable
//! folios and then as by default.

mod run;

use std::{error::Error, path::Path, process::ExitCode};

use guest::Stableblk;
use run::Run;

fn main() -> ExitCode {
    let Err(error) = demonstrate() else { return ExitCode::SUCCESS };
    println!("FAILED: {error}{}", error.source().map_or_else(String::new, |cause| format!(": {cause}")));
    ExitCode::FAILURE
}

fn demonstrate() -> Result<(), Box<dyn Error>> {
    let program = std::env::current_exe()?.with_file_name("stableblk");
    let stableblk = Stableblk::new(&program);
    println!("1 of 2: a guest on a disk served without stable folios");
    let defect = Run::new(&stableblk, &["--bounce", "never"])?;
    println!("2 of 2: the same guest on a disk served as by default");
    let cure = Run::new(&stableblk, &[])?;

    println!("\n{}\n{defect}\n{cure}\n", Run::TABLE_HEAD);
    if !defect.lost_guards() {
        return Err("no guard was lost without stable folios, so the defect was not shown".into());
    }
    cure.all_went_well().map_err(|reason| format!("as by default, {reason}"))?;
    println!("As by default the guest also {}.\n", cure.other_work());
    print_instructions(&program)
}

fn print_instructions(program: &Path) -> Result<(), Box<dyn Error>> {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../qemu-configs").canonicalize()?;
    let (program, configs) = (program.display(), configs.display());
    println!(
        "A disk of your own, new or as it is:
  {program} create disk.raw --size 10G
  {program} protect disk.raw
Serve it, and start QEMU in the same directory:
  {program} --socket-path disk.sock --blk-file disk.raw
  qemu-system-x86_64 -accel kvm -cpu host -readconfig {configs}/{}",
        run::QEMU_CONFIG
    );
    Ok(())
}
