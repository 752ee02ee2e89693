//! A guest that moves from one QEMU process to the next while it runs.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::machine::{Machine, Process, qemu_failed, script_status};
use crate::parts::Qemu;
use crate::qmp::Qmp;
use crate::{BootFiles, Guest, GuestError};

/// For a boot, a monitor, and a migration.
const TIME_LIMIT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

const MONITOR: &str = "monitor.sock";
const INCOMING: &str = "incoming.sock";
/// Slow enough for a migration to be cancelled, in bytes a second.
const SLOW: u64 = 1 << 20;
const FAST: u64 = 1 << 40;

/// A guest that has come up.
#[derive(Debug)]
pub struct MovingGuest<'g> {
    guest: &'g Guest<'g>,
    qemu: Qemu,
    boot: BootFiles,
    running: Running,
}

/// A QEMU process and its monitor.
#[derive(Debug)]
struct Running {
    qmp: Qmp,
    process: Process,
    machine: Machine,
}

impl<'g> MovingGuest<'g> {
    /// Boots `guest` with `directory` as QEMU's working directory, and returns when it is up. The
    /// files to boot from are in `scratch`.
    ///
    /// # Errors
    /// [`GuestError`]: when it does not come up.
    pub fn boot(
        guest: &'g Guest<'g>,
        qemu: Qemu,
        scratch: &Path,
        directory: &Path,
    ) -> Result<Self, GuestError> {
        let boot = guest.boot_files(scratch)?;
        let mut running = Running::start(guest, qemu, &boot, directory, &[])?;
        running.wait_until(|running| running.machine.is_up())?;
        Ok(Self { guest, qemu, boot, running })
    }

    /// Moves to a new QEMU process, with `directory` as its working directory. Returns how long the
    /// guest stood still, as QEMU measured.
    ///
    /// # Errors
    /// [`GuestError`]: when the migration does not complete.
    pub fn migrate(&mut self, directory: &Path) -> Result<Duration, GuestError> {
        let mut destination = self.begin(directory, FAST)?;
        let info = self.running.wait_for_migration("completed")?;
        destination.wait_until(|destination| {
            let status = destination.qmp.execute("query-status", &json!({}))?;
            Ok(status["status"] == "running")
        })?;
        self.running = destination;
        Ok(Duration::from_millis(info["downtime"].as_u64().unwrap_or(0)))
    }

    /// Begins to move to a new QEMU process, and changes its mind.
    ///
    /// # Errors
    /// [`GuestError`]: when the migration cannot be begun or cancelled.
    pub fn cancel_migration(&mut self, directory: &Path) -> Result<(), GuestError> {
        let _destination = self.begin(directory, SLOW)?;
        self.running.wait_for_migration("active")?;
        self.running.qmp.execute("migrate_cancel", &json!({}))?;
        self.running.wait_for_migration("cancelled").map(drop)
    }

    /// Begins to move to a new QEMU process, which dies.
    ///
    /// # Errors
    /// [`GuestError`]: when the migration cannot be begun.
    pub fn fail_migration(&mut self, directory: &Path) -> Result<(), GuestError> {
        let destination = self.begin(directory, SLOW)?;
        self.running.wait_for_migration("active")?;
        drop(destination);
        self.running.wait_for_migration("failed").map(drop)
    }

    /// Waits for the end of the script, and returns its output since the last move.
    ///
    /// # Errors
    /// [`GuestError`]: unless the script ends with status 0.
    pub fn finish(mut self) -> Result<String, GuestError> {
        let deadline = Instant::now() + self.guest.time_limit;
        let Running { machine, process, .. } = &mut self.running;
        let status = loop {
            match process.status()? {
                Some(status) => break script_status(status),
                None if Instant::now() < deadline => thread::sleep(POLL_INTERVAL),
                None => {
                    let (output, console) = (machine.output()?, machine.console()?);
                    return Err(GuestError::TimedOut { limit: self.guest.time_limit, output, console });
                }
            }
        };
        let (output, console) = (machine.output()?, machine.console()?);
        match status {
            Some(0) => Ok(output),
            Some(status) => Err(GuestError::Script { status, output, console }),
            None => Err(GuestError::Died { console }),
        }
    }

    /// Starts the destination and the migration to it.
    fn begin(&mut self, directory: &Path, bandwidth: u64) -> Result<Running, GuestError> {
        let incoming = format!("unix:{}", directory.join(INCOMING).display());
        let destination =
            Running::start(self.guest, self.qemu, &self.boot, directory, &["-incoming", &incoming])?;
        let qmp = &mut self.running.qmp;
        qmp.execute("migrate-set-parameters", &json!({ "max-bandwidth": bandwidth }))?;
        qmp.execute("migrate", &json!({ "uri": incoming }))?;
        Ok(destination)
    }
}

impl Running {
    fn start(
        guest: &Guest<'_>,
        qemu: Qemu,
        boot: &BootFiles,
        directory: &Path,
        arguments: &[&str],
    ) -> Result<Self, GuestError> {
        let monitor = format!("unix:{MONITOR},server=on,wait=off");
        let machine = Machine::new(guest, qemu, boot, directory)?;
        let mut machine = machine.with_arguments(&["-qmp", &monitor]).with_arguments(arguments);
        let mut process = machine.start()?;
        let path = directory.join(MONITOR);
        let deadline = Instant::now() + TIME_LIMIT;
        let qmp = loop {
            match Qmp::connect(&path) {
                Ok(qmp) => break qmp,
                Err(_) if process.status()?.is_none() && Instant::now() < deadline => {
                    thread::sleep(POLL_INTERVAL);
                }
                Err(error) => return Err(machine.failure(&error)),
            }
        };
        Ok(Self { qmp, process, machine })
    }

    fn wait_for_migration(&mut self, wanted: &str) -> Result<Value, GuestError> {
        let mut info = Value::Null;
        self.wait_until(|running| {
            info = running.qmp.execute("query-migrate", &json!({}))?;
            let status = info["status"].as_str().unwrap_or("none");
            let ended = ["completed", "cancelled", "failed"].contains(&status);
            if ended && status != wanted {
                return Err(qemu_failed(format!("migration: {info}")));
            }
            Ok(status == wanted)
        })?;
        Ok(info)
    }

    fn wait_until(
        &mut self,
        mut reached: impl FnMut(&mut Self) -> Result<bool, GuestError>,
    ) -> Result<(), GuestError> {
        let deadline = Instant::now() + TIME_LIMIT;
        while !reached(self)? {
            if self.process.status()?.is_some() || Instant::now() > deadline {
                return Err(self.machine.failure(&"it ended, or came no further"));
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }
}
