//! The values of limits.

use serde::{Deserialize, Serialize};

/// The greatest rate of a limit. It is far above any device, and far from overflow.
pub const RATE_MAX: u64 = 1 << 50;
/// The time whose tokens are saved where none is given, in milliseconds.
pub const BURST_DEFAULT: u64 = 100;
/// The greatest time whose tokens are saved, in milliseconds: an hour.
pub const BURST_MAX: u64 = 3_600_000;

/// Limits of requests and bytes a second; 0 where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Requests a second.
    pub iops: u64,
    /// Bytes read and written a second.
    pub bps: u64,
    /// Reads a second.
    pub read_iops: u64,
    /// Writes a second.
    pub write_iops: u64,
    /// Bytes read a second.
    pub read_bps: u64,
    /// Bytes written a second.
    pub write_bps: u64,
    /// The time whose tokens are saved while they are not used, in milliseconds; 0 for the default.
    pub burst_ms: u64,
}

impl Limits {
    /// The rates with their names, as options have them.
    pub fn rates(&self) -> [(&'static str, u64); 6] {
        [
            ("iops", self.iops),
            ("bps", self.bps),
            ("read-iops", self.read_iops),
            ("write-iops", self.write_iops),
            ("read-bps", self.read_bps),
            ("write-bps", self.write_bps),
        ]
    }

    /// Refuses values that are too great, and limits of nothing. The text says why.
    pub fn check(&self) -> Result<(), String> {
        if let Some((name, _)) = self.rates().into_iter().find(|(_, rate)| *rate > RATE_MAX) {
            return Err(format!("{name} is more than {RATE_MAX}"));
        }
        if self.rates().iter().all(|(_, rate)| *rate == 0) {
            return Err("no limit is given: say none to remove all".to_owned());
        }
        if self.burst_ms > BURST_MAX {
            return Err(format!("the burst is longer than {} s", BURST_MAX / 1000));
        }
        Ok(())
    }
}
