//! Programs that a test starts, each with a limit: one that hangs is a failure that names it.

use std::io::{self, Read};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longest time for a program. Nothing that is started here takes that long, on however busy a
/// machine.
pub const TIME_LIMIT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Waits for the end of `child`. Fails with [`io::ErrorKind::TimedOut`] when it does not come.
pub fn wait(child: &mut Child) -> io::Result<ExitStatus> {
    let deadline = Instant::now() + TIME_LIMIT;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > deadline {
            let seconds = TIME_LIMIT.as_secs();
            let reason = format!("process {} has not ended after {seconds} s", child.id());
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Kills `child` and waits for its end, which may be held up by the kernel, or by who traces it.
/// Says so when it does not come.
pub fn end(child: &mut Child) {
    // fails only when it was waited for before
    let _ = child.kill();
    if let Err(error) = wait(child) {
        eprintln!("{error}, though it was killed");
    }
}

/// Runs `command` to its end, as [`Command::output`] does.
pub fn output(command: &mut Command) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().map(read_all);
    let stderr = child.stderr.take().map(read_all);
    let status = wait(&mut child).inspect_err(|_| end(&mut child))?;
    let text = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    Ok(Output { status, stdout: text(stdout), stderr: text(stderr) })
}

fn read_all(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // an error ends the output
        let _ = stream.read_to_end(&mut bytes);
        bytes
    })
}
