//! The writer of the log. While a disk is served, a thread of its own writes to standard error, so
//! that no other thread waits for the reader of the log.

use std::borrow::Cow;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::format::LogFormat;

/// The number of lines that may wait for the reader of the log. More are dropped and counted.
const LINES_MAX: usize = 1024;
/// How often to look whether there is room.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A message to the thread.
#[derive(Debug)]
enum LogItem {
    Line(Vec<u8>),
    /// A request for a message when all lines before it are written.
    Flushed(SyncSender<()>),
}

/// The writer of lines. All clones share the destination.
#[derive(Debug, Clone)]
pub struct LogWriter(Arc<Destination>);

#[derive(Debug)]
enum Destination {
    /// Each line is written by the thread that logs it.
    Direct,
    /// Lines are written by a thread of their own.
    Thread {
        lines: SyncSender<LogItem>,
        /// The number of lines for which there was no room.
        lost: Arc<AtomicU64>,
    },
}

impl LogWriter {
    /// A writer that writes each line at once, for a command that does not serve.
    pub fn direct() -> Self {
        Self(Arc::new(Destination::Direct))
    }

    /// Starts a thread that writes lines to `output`. A line for which there is no room, since
    /// nothing reads the output, is dropped.
    pub fn start(output: impl Write + Send + 'static, format: LogFormat) -> io::Result<Self> {
        let (lines, received) = mpsc::sync_channel(LINES_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write_lines(&received, output, &counted, format))?;
        Ok(Self(Arc::new(Destination::Thread { lines, lost })))
    }

    /// Writes one line, which ends with a newline.
    pub fn write_line(&self, line: &[u8]) {
        let line = escape_line(line);
        match &*self.0 {
            // there is no other place to report a failure
            Destination::Direct => drop(io::stderr().write_all(&line)),
            Destination::Thread { lines, lost } => {
                if lines.try_send(LogItem::Line(line)).is_err() {
                    lost.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// Waits until all lines so far are written, but not longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        let Destination::Thread { lines, .. } = &*self.0 else { return };
        let deadline = Instant::now() + limit;
        let (flushed, done) = mpsc::sync_channel(1);
        let mut item = LogItem::Flushed(flushed);
        while let Err(TrySendError::Full(unsent)) = lines.try_send(item) {
            if Instant::now() >= deadline {
                return;
            }
            thread::sleep(POLL_INTERVAL);
            item = unsent;
        }
        // on a time-out nothing reads the log, and the lines are lost
        let _ = done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The thread's work, to the end of the process.
fn write_lines(lines: &Receiver<LogItem>, mut output: impl Write, lost: &AtomicU64, format: LogFormat) {
    for item in lines {
        match item {
            // a failure cannot be reported
            LogItem::Line(line) => drop(output.write_all(&line)),
            LogItem::Flushed(done) => {
                let _ = output.flush();
                let _ = done.try_send(());
            }
        }
        let lost = lost.swap(0, Relaxed);
        if lost > 0 {
            let line =
                format.own_line(&format!("{lost} lines of the log were dropped, because nothing read it"));
            let _ = output.write_all(line.as_bytes());
        }
    }
}

/// Writes one event. The layer that formats an event writes it in one call.
impl Write for &LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_line(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// `line` with each control character but its last newline escaped.
fn escape_line(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let mut escaped = escape(text.strip_suffix('\n').unwrap_or(&text)).into_owned().into_bytes();
    escaped.push(b'\n');
    escaped
}

/// `text` with each control character escaped: names come from files and from other processes, and
/// could otherwise forge lines or control a terminal.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::Sender;

    use super::*;

    /// A writer that writes nothing before the gate is open.
    struct Gate {
        open: Receiver<()>,
        written: Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // also when the test has ended
            let _ = self.open.recv();
            let _ = self.written.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_that_is_not_read_blocks_no_writer_and_counts_the_dropped_lines() {
        let (open, gate) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        let writer = LogWriter::start(Gate { open: gate, written }, LogFormat::Text).unwrap();
        let count = 3 * LINES_MAX;
        (0..count).for_each(|line| writer.write_line(format!("{line}\n").as_bytes()));
        writer.flush(Duration::from_millis(1));
        // the writer is not blocked from here on
        drop(open);
        writer.flush(Duration::from_secs(60));
        let lines: Vec<_> = lines.try_iter().map(|line| String::from_utf8(line).unwrap()).collect();
        let dropped: usize = lines
            .iter()
            .filter_map(|line| line.strip_prefix("stableblk: ")?.split(' ').next()?.parse::<usize>().ok())
            .sum();
        let kept = lines.iter().filter(|line| !line.starts_with("stableblk")).count();
        assert!(kept >= LINES_MAX, "{kept} lines were kept");
        assert_eq!(kept + dropped, count);
    }

    #[test]
    fn control_characters_in_a_name_are_escaped() {
        let line = b"in use by \x1b[31m\nFORGED \xff \xc2\x9b2J\n";
        let expected = "in use by \\u{1b}[31m\\nFORGED \u{fffd} \\u{9b}2J\n";
        assert_eq!(String::from_utf8(escape_line(line)).unwrap(), expected);
        assert_eq!(escape("na\u{ef}ve \u{1f4be}"), "na\u{ef}ve \u{1f4be}");
    }
}
