//! The limit of messages of one kind, over all sessions, so that a front-end that connects and
//! leaves for ever cannot fill a disk.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::format::LogFormat;
use super::writer::LogWriter;

/// The number of messages of one kind that are logged at once.
const BURST: u32 = 32;
/// The time after which one more may be logged.
const INTERVAL: Duration = Duration::from_secs(1);

/// A layer that limits the messages from each place in the program, and logs how many were left
/// out.
pub(super) struct Limit {
    buckets: Mutex<HashMap<Identifier, TokenBucket>>,
    writer: LogWriter,
    format: LogFormat,
}

/// The messages that one place may log.
#[derive(Debug)]
struct TokenBucket {
    tokens: u32,
    /// The time of the last token.
    filled: Instant,
    left_out: u64,
}

impl TokenBucket {
    fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled: now, left_out: 0 }
    }

    /// Takes a token for a message. Returns the number of messages that were left out before it;
    /// none when there is no token.
    fn take(&mut self, now: Instant) -> Option<u64> {
        let intervals = now.saturating_duration_since(self.filled).as_secs() / INTERVAL.as_secs();
        let earned = u32::try_from(intervals).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.filled = now;
        }
        if self.tokens == 0 {
            self.left_out += 1;
            return None;
        }
        self.tokens -= 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Limit {
    pub(super) fn new(writer: LogWriter, format: LogFormat) -> Self {
        Self { buckets: Mutex::default(), writer, format }
    }

    fn report(&self, left_out: u64) {
        let line = self.format.own_line(&format!("{left_out} messages like the next one were left out"));
        self.writer.write_line(line.as_bytes());
    }
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        if *event.metadata().level() > Level::INFO {
            // these levels are for finding a fault, so they are not limited
            return true;
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(event.metadata().callsite()).or_insert_with(|| TokenBucket::new(now));
        let taken = bucket.take(now);
        drop(buckets);
        if let Some(left_out @ 1..) = taken {
            self.report(left_out);
        }
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_a_second() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        let at = |ms| start + Duration::from_millis(ms);
        assert!((0..BURST).all(|_| bucket.take(at(0)) == Some(0)));
        assert!((0..100).all(|ms| bucket.take(at(ms)).is_none()));
        assert_eq!(bucket.take(at(1000)), Some(100));
        assert_eq!(bucket.take(at(1500)), None);
        assert_eq!(bucket.take(at(2000)), Some(1));
        // time without messages fills the bucket
        assert!((0..BURST).all(|_| bucket.take(at(100_000)).is_some()));
        assert_eq!(bucket.take(at(100_000)), None);
    }
}
