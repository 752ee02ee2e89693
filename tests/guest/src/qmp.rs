//! QEMU's monitor for programs: a command, a reply, one line of JSON each.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::GuestError;

/// No command takes that long.
const REPLY_LIMIT: Duration = Duration::from_secs(60);

/// A connection to a monitor.
#[derive(Debug)]
pub struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to the monitor at `path` and takes it out of its greeting.
    ///
    /// # Errors
    /// [`GuestError`]: when there is no answer.
    pub fn connect(path: &Path) -> Result<Self, GuestError> {
        let stream = UnixStream::connect(path).map_err(GuestError::file(path))?;
        stream.set_read_timeout(Some(REPLY_LIMIT)).map_err(GuestError::file(path))?;
        let mut qmp = Self { lines: BufReader::new(stream) };
        qmp.line()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its result.
    ///
    /// # Errors
    /// [`GuestError`]: when QEMU refuses the command, or is gone.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, GuestError> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.lines.get_mut().write_all(line.as_bytes()).map_err(GuestError::program("QMP"))?;
        loop {
            let mut reply = self.line()?;
            if let Some(result) = reply.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = reply.get("error") {
                return Err(GuestError::program("QMP")(format!("{command}: {error}")));
            }
            // an event
        }
    }

    fn line(&mut self) -> Result<Value, GuestError> {
        let mut line = String::new();
        self.lines.read_line(&mut line).map_err(GuestError::program("QMP"))?;
        serde_json::from_str(&line).map_err(GuestError::program("QMP"))
    }
}
