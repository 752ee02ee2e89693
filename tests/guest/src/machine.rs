//! One QEMU process: its command line, its end, what it left behind.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{BootFiles, Guest, GuestError, Qemu, limited, read_text, write};

/// From QEMU's start to the guest's first program; some 3 s on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
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
    pub(crate) fn new(
        guest: &Guest,
        qemu: Qemu,
        boot: &BootFiles,
        scratch: &Path,
    ) -> Result<Self, GuestError> {
        let config = qemu.config(guest.config, scratch)?;
        let [console, output, errors] =
            ["console.log", "output.log", "qemu.log"].map(|name| scratch.join(name));
        let mut qemu = qemu.command();
        qemu.current_dir(scratch)
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            // KVM guests hang on some of the machines that the tests run on; emulation works on all
            .args(["-accel", "tcg,thread=multi", "-cpu", "max"])
            .arg("-readconfig")
            .arg(config)
            .arg("-kernel")
            .arg(&boot.kernel)
            .arg("-initrd")
            .arg(&boot.initramfs)
            .args(["-append", &boot.arguments])
            .args(["-serial", "file:console.log", "-serial", "file:output.log"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(Self { qemu, console, output, errors })
    }

    /// With further arguments for QEMU.
    pub(crate) fn with_arguments(mut self, arguments: &[&str]) -> Self {
        self.qemu.args(arguments);
        self
    }

    /// Runs QEMU to its end, or to the limit.
    pub(crate) fn run(&mut self, script_limit: Duration) -> Result<Ending, GuestError> {
        // a former attempt's console must not be taken for this one's
        write(&self.console, &[])?;
        let mut process = self.start()?;
        self.wait(&mut process, script_limit)
    }

    /// Waits until QEMU, which boots, comes to its end, or to the limit.
    pub(crate) fn wait(&self, process: &mut Process, script_limit: Duration) -> Result<Ending, GuestError> {
        let (mut up, mut ends_by) = (false, Instant::now() + BOOT_LIMIT);
        loop {
            let status = process.status()?;
            if !up && self.is_up()? {
                (up, ends_by) = (true, Instant::now() + script_limit);
            }
            if let Some(script) = status.and_then(script_status) {
                return Ok(Ending::Script(script));
            }
            match status.map(|status| status.code()) {
                Some(Some(0)) if up => return Ok(Ending::Died),
                Some(Some(0)) => return Ok(Ending::BeforeUp),
                Some(_) => return Err(qemu_failed(read_text(&self.errors)?)),
                None if Instant::now() < ends_by => thread::sleep(POLL_INTERVAL),
                None if up => return Ok(Ending::TimedOut),
                None => return Ok(Ending::BeforeUp),
            }
        }
    }

    /// Whether the guest has reached its first program.
    pub(crate) fn is_up(&self) -> Result<bool, GuestError> {
        Ok(self.console()?.contains("GUEST-UP"))
    }

    pub(crate) fn start(&mut self) -> Result<Process, GuestError> {
        let errors = File::create(&self.errors).map_err(GuestError::file(&self.errors))?;
        self.qemu.stderr(errors).spawn().map(Process).map_err(qemu_failed)
    }

    /// Why a guest did not do what it should, with what QEMU and the guest's kernel said of it.
    pub(crate) fn failure(&self, what: &impl ToString) -> GuestError {
        let said = [&self.errors, &self.console].map(|path| read_text(path).unwrap_or_default());
        qemu_failed(format!("{}; it said:\n{}", what.to_string(), said.join("\n")))
    }

    /// The output of the guest's script.
    pub(crate) fn output(&self) -> Result<String, GuestError> {
        read_text(&self.output)
    }

    /// The output of the guest's kernel and of the script's standard error.
    pub(crate) fn console(&self) -> Result<String, GuestError> {
        read_text(&self.console)
    }
}

/// The exit status of the script, if the script ended QEMU. isa-debug-exit: 2 * (16 + status of the
/// script) + 1.
pub(crate) fn script_status(status: ExitStatus) -> Option<i32> {
    status.code().filter(|code| *code > 32).map(|code| (code - 1) / 2 - 16)
}

pub(crate) fn qemu_failed(reason: impl ToString) -> GuestError {
    GuestError::program("qemu-system-x86_64")(reason)
}

/// QEMU does not outlive the run, however that ends.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// How it has ended, if it has.
    pub(crate) fn status(&mut self) -> Result<Option<ExitStatus>, GuestError> {
        self.0.try_wait().map_err(|error| qemu_failed(error.to_string()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        limited::end(&mut self.0);
    }
}
