//! The guest's root file system: busybox, the modules it needs, our programs and one script.

use std::{path::Path, process::Command};

use crate::{GuestError, newc::Archive, output_of, parts, programs, read};

const BUSYBOX: &str = "/bin/busybox";

/// Builds the archive for a guest that runs `script` with busybox's shell and has `modules` besides those of a virtio disk.
pub(crate) fn build(script: &str, modules: &[&str]) -> Result<Vec<u8>, GuestError> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "mnt", "modules", "proc", "sys", "tmp", "tools"] {
        archive.directory(directory);
    }
    archive.executable("init", include_bytes!("../files/init"));
    archive.executable("script", script.as_bytes());
    archive.executable("bin/busybox", &read(Path::new(BUSYBOX))?);
    archive.executable("bin/tool", include_bytes!("../files/tool"));
    for (name, contents) in programs::build()? {
        archive.executable(&format!("bin/{name}"), &contents);
    }
    add_modules(&mut archive, modules)?;
    Ok(archive.finish())
}

/// Adds the modules of a virtio disk, `more` and `modules/order`, which names them so that each comes after those it needs.
fn add_modules(archive: &mut Archive, more: &[&str]) -> Result<(), GuestError> {
    let modules = parts::modules()?;
    let (root, version) = (modules.join("../../.."), modules.file_name().unwrap_or_default());
    let mut order = Vec::new();
    for module in ["virtio_pci", "virtio_blk"].iter().chain(more) {
        let mut modprobe = Command::new("/sbin/modprobe");
        modprobe.arg("--show-depends").arg("-d").arg(&root).arg("-S").arg(version).arg(module);
        // lines are "insmod PATH" or, for what the kernel has built in, "builtin NAME"
        for path in
            output_of(&mut modprobe, "modprobe")?.lines().filter_map(|line| line.strip_prefix("insmod "))
        {
            let path = Path::new(path.trim());
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !order.contains(&name) {
                archive.executable(&format!("modules/{name}"), &read(path)?);
                order.push(name);
            }
        }
    }
    archive.executable("modules/order", (order.join("\n") + "\n").as_bytes());
    Ok(())
}
