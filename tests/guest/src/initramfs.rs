//! The guest's root file system: busybox, the modules it needs, our programs and one script.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use crate::{Guest, GuestError, libraries, newc::Archive, output_of, programs, read};

const BUSYBOX: &str = "/bin/busybox";

/// Builds the archive for a guest that runs its script with busybox's shell.
pub(crate) fn build(guest: &Guest) -> Result<Vec<u8>, GuestError> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "mnt", "modules", "proc", "sys", "tmp", "tools"] {
        archive.directory(directory);
    }
    archive.executable("init", include_bytes!("../files/init"));
    archive.executable("script", guest.script.as_bytes());
    archive.executable("bin/busybox", &read(Path::new(BUSYBOX))?);
    archive.executable("bin/tool", include_bytes!("../files/tool"));
    for (name, contents) in programs::build()? {
        archive.executable(&format!("bin/{name}"), &contents);
    }
    add_host_programs(&mut archive, guest.programs)?;
    add_modules(&mut archive, guest)?;
    Ok(archive.finish())
}

/// Adds programs of this machine and their libraries, each where it is found here or, a program, in
/// `bin`.
fn add_host_programs(archive: &mut Archive, programs: &[&Path]) -> Result<(), GuestError> {
    let mut files = BTreeMap::new();
    for program in programs {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        files.insert(format!("bin/{name}"), program.to_path_buf());
        for library in libraries::of(&[program])? {
            files.insert(library.to_string_lossy().trim_start_matches('/').to_owned(), library);
        }
    }
    let parents = files.keys().flat_map(|file| Path::new(file).ancestors().skip(1));
    let directories: BTreeSet<_> =
        parents.filter(|path| !["", "bin"].map(Path::new).contains(path)).collect();
    for directory in directories {
        archive.directory(&directory.to_string_lossy());
    }
    for (name, file) in &files {
        archive.executable(name, &without_debug_information(file)?);
    }
    Ok(())
}

/// That is most of a program as it is built for tests, and would be unpacked at every boot.
fn without_debug_information(file: &Path) -> Result<Vec<u8>, GuestError> {
    let stripped = tempfile::NamedTempFile::new().map_err(GuestError::file(file))?;
    output_of(Command::new("strip").arg("--strip-debug").arg("-o").arg(stripped.path()).arg(file), "strip")?;
    read(stripped.path())
}

/// Adds the modules of a virtio disk, the guest's own and `modules/order`, which names them, with
/// their parameters, so that each comes after those it needs.
fn add_modules(archive: &mut Archive, guest: &Guest) -> Result<(), GuestError> {
    let modules = guest.kernel.modules()?;
    let (root, version) = (modules.join("../../.."), modules.file_name().unwrap_or_default());
    let mut order: Vec<(String, String)> = Vec::new();
    for module in guest.kernel.virtio_modules().iter().chain(guest.modules) {
        let (module, parameters) = module.split_once(' ').unwrap_or((module, ""));
        let mut modprobe = Command::new("/sbin/modprobe");
        modprobe.arg("--show-depends").arg("-d").arg(&root).arg("-S").arg(version).arg(module);
        // lines are "insmod PATH" or, for what the kernel has built in, "builtin NAME"
        for path in
            output_of(&mut modprobe, "modprobe")?.lines().filter_map(|line| line.strip_prefix("insmod "))
        {
            let path = Path::new(path.trim());
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !order.iter().any(|(ordered, _)| *ordered == name) {
                archive.executable(&format!("modules/{name}"), &read(path)?);
                let named = path.file_stem().is_some_and(|stem| stem == module);
                order.push((name, if named { parameters.to_owned() } else { String::new() }));
            }
        }
    }
    let lines: Vec<_> = order.iter().map(|(name, parameters)| format!("{name} {parameters}\n")).collect();
    archive.executable("modules/order", lines.concat().as_bytes());
    Ok(())
}
