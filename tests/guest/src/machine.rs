//! One QEMU process: its command line, its end, what it left behind.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{BootFiles, Guest, GuestError, Qemu, parts, read_text, write};

/// From QEMU's start to the guest's first program; some 3 s on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// How a run of the machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The script ended with this status.
    Script(i32),
    /// The guest did not reach its first program.
    BeforeUp,
    /// The guest was up, then panicked or powered off.
    Died,
    /// The script was still running at its time limit.
    TimedOut,
}

/// A QEMU command line and the files it writes.
#[derive(Debug)]
pub(crate) struct Machine {
    qemu: Command,
    console: PathBuf,
    output: PathBuf,
    errors: PathBuf,
}

impl Machine {
    pub(crate) fn new(guest: &Guest, qemu: Qemu, boot: &BootFiles, scratch: &Path) -> Self {
        let [console, output, errors] =
            ["console.log", "output.log", "qemu.log"].map(|name| scratch.join(name));
        let mut qemu = qemu.command();
        qemu.current_dir(scratch)
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            // KVM guests hang on some of the machines that the tests run on; emulation works on all
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .arg("-readconfig")
            .arg(parts::qemu_config(guest.config))
            .arg("-kernel")
            .arg(&boot.kernel)
            .arg("-initrd")
            .arg(&boot.initramfs)
            .args(["-append", &boot.arguments])
            .args(["-serial", "file:console.log", "-serial", "file:output.log"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Self { qemu, console, output, errors }
    }

    /// Runs QEMU to its end, or to the limit.
    pub(crate) fn run(&mut self, script_limit: Duration) -> Result<Ending, GuestError> {
        // a former attempt's console must not be taken for this one's
        write(&self.console, &[])?;
        let mut process = self.start()?;
        let (mut up, mut ends_by) = (false, Instant::now() + BOOT_LIMIT);
        loop {
            let status = process.0.try_wait().map_err(|error| qemu_failed(error.to_string()))?;
            if !up && self.console()?.contains("GUEST-UP") {
                (up, ends_by) = (true, Instant::now() + script_limit);
            }
            match status.map(|status| status.code()) {
                // isa-debug-exit: 2 * (16 + status of the script) + 1
                Some(Some(code)) if code > 32 => return Ok(Ending::Script((code - 1) / 2 - 16)),
                Some(Some(0)) if up => return Ok(Ending::Died),
                Some(Some(0)) => return Ok(Ending::BeforeUp),
                Some(_) => return Err(qemu_failed(read_text(&self.errors)?)),
                None if Instant::now() < ends_by => thread::sleep(POLL_INTERVAL),
                None if up => return Ok(Ending::TimedOut),
                None => return Ok(Ending::BeforeUp),
            }
        }
    }

    fn start(&mut self) -> Result<Process, GuestError> {
        let errors = File::create(&self.errors).map_err(GuestError::file(&self.errors))?;
        self.qemu.stderr(errors).spawn().map(Process).map_err(qemu_failed)
    }

    /// What the guest's script printed.
    pub(crate) fn output(&self) -> Result<String, GuestError> {
        read_text(&self.output)
    }

    /// What the guest's kernel, and the script's standard error, printed.
    pub(crate) fn console(&self) -> Result<String, GuestError> {
        read_text(&self.console)
    }
}

fn qemu_failed(reason: impl ToString) -> GuestError {
    GuestError::program("qemu-system-x86_64")(reason)
}

/// QEMU does not outlive the run, however that ends.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // both fail only when the process is gone already
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
