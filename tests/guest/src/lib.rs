//! Boots a small Linux guest under QEMU on vhost-user disks, for the tests and the demo.
//!
//! A [`Guest`] is a file of `qemu-configs/` and a shell script that the guest runs. Its tools are
//! busybox, the programs of `tests/guest/programs` and those of a disk by [`make_tool_disk`]; QEMU
//! runs in a scratch directory, where the configuration's relative socket paths resolve.

mod error;
mod initramfs;
mod kernel;
mod libraries;
pub mod limited;
mod machine;
mod moving;
mod newc;
mod parts;
mod programs;
mod qmp;
mod stableblk;
mod tool_disk;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

pub use error::GuestError;
pub use kernel::Kernel;
use machine::{Ending, Machine};
pub use moving::MovingGuest;
pub use parts::{Qemu, prometheus_program, qemu_config, qemu_storage_daemon, qemu_tool};
pub use qmp::Qmp;
pub use stableblk::{Server, Stableblk};
pub use tool_disk::make_tool_disk;

/// Emulated processors fail to boot now and then: one runs on into code that another has patched
/// meanwhile, and the kernel stops at a breakpoint that is no longer one. It takes seconds. A test
/// that failed is never run again.
const BOOT_ATTEMPTS: u32 = 12;
/// The kernel's message about it. The last code is patched when the first program runs already.
const PATCHED_MEANWHILE: &str = "Oops: int3";

/// A guest to boot.
#[derive(Debug, Clone)]
pub struct Guest<'a> {
    /// The kernel of the guest.
    pub kernel: Kernel,
    /// Programs of this machine that the script can run, which bring their libraries.
    pub programs: &'a [&'a Path],
    /// A file of `qemu-configs/`, or the whole path of another.
    pub config: &'a str,
    /// The guest's script, for busybox's shell. Its standard output is the result.
    pub script: &'a str,
    /// Kernel modules to load besides those of a virtio disk, each with what it needs. Some may be
    /// built in. Parameters may follow a name: `scsi_debug dif=1`.
    pub modules: &'a [&'a str],
    /// Makes the guest use less memory than the configuration gives it, in mebibytes.
    pub memory_limit_mib: Option<u32>,
    /// How long the script may take.
    pub time_limit: Duration,
}

impl Guest<'_> {
    /// Boots the guest with `scratch` as QEMU's working directory and runs the script; returns what
    /// it printed.
    ///
    /// # Errors
    /// [`GuestError`]: unless the guest came up and the script ended with status 0.
    pub fn run(&self, scratch: &Path) -> Result<String, GuestError> {
        self.run_on(Qemu::Installed, scratch)
    }

    /// The same, on a QEMU of the caller's choice.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_on(&self, qemu: Qemu, scratch: &Path) -> Result<String, GuestError> {
        let mut machine = Machine::new(self, qemu, &self.boot_files(scratch)?, scratch)?;
        let mut attempt = 1;
        let ending = loop {
            match machine.run(self.time_limit)? {
                ending @ (Ending::BeforeUp | Ending::Died) => {
                    // not of what the script did
                    let booting = matches!(ending, Ending::BeforeUp)
                        || machine.output()?.is_empty() && machine.console()?.contains(PATCHED_MEANWHILE);
                    if !booting || attempt == BOOT_ATTEMPTS {
                        break ending;
                    }
                    eprintln!("guest: died before it did anything, attempt {attempt} of {BOOT_ATTEMPTS}");
                    attempt += 1;
                }
                ending => break ending,
            }
        };
        let (output, console) = (machine.output()?, machine.console()?);
        match ending {
            Ending::Script(0) => Ok(output),
            Ending::Script(status) => Err(GuestError::Script { status, output, console }),
            Ending::BeforeUp => Err(GuestError::NeverUp { console }),
            Ending::Died => Err(GuestError::Died { console }),
            Ending::TimedOut => Err(GuestError::TimedOut { limit: self.time_limit, output, console }),
        }
    }

    /// Makes the files that a hypervisor boots the guest from; new files are put into `scratch`.
    ///
    /// The machine's first serial port is the guest's console. The second has the script's output.
    ///
    /// # Errors
    /// [`GuestError`]: when a part is missing or cannot be built.
    pub fn boot_files(&self, scratch: &Path) -> Result<BootFiles, GuestError> {
        let initramfs = scratch.join("initramfs.cpio");
        write(&initramfs, &initramfs::build(self)?)?;
        let memory = self.memory_limit_mib.map_or_else(String::new, |mib| format!(" mem={mib}M"));
        let arguments = format!("console=ttyS0 quiet panic=-1 mitigations=off{memory}");
        Ok(BootFiles { kernel: self.kernel.image()?, initramfs, arguments })
    }
}

/// The files that a hypervisor boots a guest from.
#[derive(Debug, Clone)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// The archive that it unpacks as its root file system.
    pub initramfs: PathBuf,
    /// The kernel's command line.
    pub arguments: String,
}

fn read(path: &Path) -> Result<Vec<u8>, GuestError> {
    fs::read(path).map_err(GuestError::file(path))
}

fn read_text(path: &Path) -> Result<String, GuestError> {
    read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

fn write(path: &Path, contents: &[u8]) -> Result<(), GuestError> {
    fs::write(path, contents).map_err(GuestError::file(path))
}

/// Runs a program to its end; its standard output.
fn output_of(command: &mut Command, program: &'static str) -> Result<String, GuestError> {
    let output = limited::output(command).map_err(GuestError::program(program))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(GuestError::program(program)(String::from_utf8_lossy(&output.stderr)))
    }
}
