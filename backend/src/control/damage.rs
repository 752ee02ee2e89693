//! The damage list, as the control socket and the subcommands show it.

use std::fmt;

use integrity::Tag;
use integrity::sidecar::{self, DamageList, DamagedRange, TagValues};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The blocks whose verification has failed, and which were not written since.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageReport {
    /// The number of blocks in the ranges.
    pub blocks: u64,
    /// How often a block was found for which the list had no room.
    pub unlisted: u64,
    /// The bytes of a block, which is a PI interval.
    pub block_size: usize,
    /// The blocks, in order.
    pub ranges: Vec<DamageEntry>,
}

/// Neighbouring blocks that have failed the same check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageEntry {
    /// The first block.
    pub first_lba: u64,
    /// The last block.
    pub last_lba: u64,
    /// The check that they failed.
    pub check: FailedCheck,
    /// The expected value of the first block's tag, in hexadecimal; null where it is unknown.
    pub expected: Option<String>,
    /// The actual value.
    pub actual: Option<String>,
    /// The finders: `guest`, `scrub`, or both.
    pub found_by: Vec<Finder>,
    /// When the first of them was found, in seconds since 1970.
    pub first_seen: u64,
    /// When one of them was found last, in seconds since 1970.
    pub last_seen: u64,
}

/// The finder of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finder {
    /// A request of the guest.
    Guest,
    /// A scrub.
    Scrub,
}

/// The check that a block has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedCheck {
    /// The guard tag does not cover the data.
    GuardTag,
    /// The application tag is another.
    ApplicationTag,
    /// The reference tag is another.
    ReferenceTag,
    /// The storage tag is another.
    StorageTag,
    /// The block was never written, and is not zero.
    UnwrittenNotZero,
    /// The block's tuple is lost with its sector of the sidecar.
    TupleLost,
    /// The block cannot be read.
    Unreadable,
    /// The device refuses the block for a tag, and does not say which.
    Device,
}

/// The number of damaged blocks. It is shown with a plus if there are more than are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageCount {
    /// The number of blocks in the damage list.
    pub blocks: u64,
    /// How often a block was found for which the list had no room.
    pub unlisted: u64,
}

impl DamageReport {
    /// The report of `list`, whose blocks have `block_size` bytes.
    pub fn new(list: &DamageList, block_size: usize) -> Self {
        let ranges = list.ranges().map(DamageEntry::from).collect();
        Self { blocks: list.blocks(), unlisted: list.unlisted(), block_size, ranges }
    }

    /// Whether there is anything to report.
    pub fn is_empty(&self) -> bool {
        self.blocks == 0 && self.unlisted == 0
    }
}

impl From<&DamageList> for DamageCount {
    fn from(list: &DamageList) -> Self {
        Self { blocks: list.blocks(), unlisted: list.unlisted() }
    }
}

impl fmt::Display for DamageCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blocks, unlisted } = self;
        write!(f, "{blocks}{}", if *unlisted > 0 { "+" } else { "" })
    }
}

impl From<&DamagedRange> for DamageEntry {
    fn from(range: &DamagedRange) -> Self {
        let finders = [(range.by_guest, Finder::Guest), (range.by_scrub, Finder::Scrub)];
        let (expected, actual) = range.tag.as_ref().map(hexadecimal).unzip();
        Self {
            first_lba: range.first,
            last_lba: range.lbas().end - 1,
            check: range.check.into(),
            expected,
            actual,
            found_by: finders.into_iter().filter(|(found, _)| *found).map(|(_, finder)| finder).collect(),
            first_seen: range.first_seen,
            last_seen: range.last_seen,
        }
    }
}

/// The expected and the actual value of a tag, because JSON's numbers do not hold 64 bits
/// everywhere.
pub fn hexadecimal(tag: &TagValues) -> (String, String) {
    let TagValues { expected, actual, bits } = *tag;
    let digits = usize::from(bits.div_ceil(4));
    (format!("{expected:0digits$x}"), format!("{actual:0digits$x}"))
}

impl From<sidecar::FailedCheck> for FailedCheck {
    fn from(check: sidecar::FailedCheck) -> Self {
        match check {
            sidecar::FailedCheck::Tag(Tag::Guard) => Self::GuardTag,
            sidecar::FailedCheck::Tag(Tag::Application) => Self::ApplicationTag,
            sidecar::FailedCheck::Tag(Tag::Reference) => Self::ReferenceTag,
            sidecar::FailedCheck::Tag(Tag::Storage) => Self::StorageTag,
            sidecar::FailedCheck::UnwrittenNotZero => Self::UnwrittenNotZero,
            sidecar::FailedCheck::TupleLost => Self::TupleLost,
            sidecar::FailedCheck::Unreadable => Self::Unreadable,
            sidecar::FailedCheck::Device => Self::Device,
        }
    }
}

impl fmt::Display for FailedCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GuardTag => "guard tag error",
            Self::ApplicationTag => "application tag error",
            Self::ReferenceTag => "reference tag error",
            Self::StorageTag => "storage tag error",
            Self::UnwrittenNotZero => "unwritten block not zero",
            Self::TupleLost => "tuple lost, its sector of the sidecar is damaged",
            Self::Unreadable => "cannot be read",
            Self::Device => "refused by the device for a tag",
        })
    }
}

impl fmt::Display for DamageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in &self.ranges {
            entry.write(self.block_size, f)?;
        }
        if self.unlisted > 0 {
            writeln!(f, "... and {} findings for which the list has no room", self.unlisted)?;
        }
        match self.blocks {
            0 if self.unlisted == 0 => writeln!(f, "no block is in the damage list"),
            1 => writeln!(f, "1 block of {} bytes is in the damage list", self.block_size),
            blocks => writeln!(f, "{blocks} blocks of {} bytes are in the damage list", self.block_size),
        }
    }
}

impl DamageEntry {
    fn write(&self, block_size: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first_lba, last_lba, check, .. } = self;
        let byte = u128::from(*first_lba) * block_size as u128;
        let is_one = first_lba == last_lba;
        if is_one {
            write!(f, "LBA {first_lba} (byte {byte}): {check}")?;
        } else {
            let blocks = last_lba.saturating_sub(*first_lba).saturating_add(1);
            write!(f, "LBA {first_lba}-{last_lba} ({blocks} blocks from byte {byte}): {check}")?;
        }
        if let (Some(expected), Some(actual)) = (&self.expected, &self.actual) {
            let of_first = if is_one { "" } else { " in the first" };
            write!(f, ",{of_first} expected {expected}, actual {actual}")?;
        }
        let finders: Vec<_> = self.found_by.iter().map(|finder| finder.name()).collect();
        let (first, last) = (Time(self.first_seen), Time(self.last_seen));
        writeln!(f, "; found by {}, first {first}, last {last}", finders.join(" and "))
    }
}

impl Finder {
    fn name(self) -> &'static str {
        match self {
            Self::Guest => "the guest",
            Self::Scrub => "a scrub",
        }
    }
}

/// A time in seconds since 1970, in UTC.
#[derive(Debug, Clone, Copy)]
pub struct Time(pub u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = i64::try_from(self.0).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        match time {
            Some(time) => time.fmt(f),
            None => write!(f, "at second {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use integrity::sidecar::{Finding, FoundBy};

    use super::*;

    #[test]
    fn an_entry_is_one_line() {
        let mut list = DamageList::default();
        let tag = Some(TagValues { expected: 0x5342, actual: 0, bits: 16 });
        let check = sidecar::FailedCheck::Tag(Tag::Application);
        list.add(&Finding { lba: 5, check, tag }, FoundBy::Guest, 0);
        list.add(&Finding { lba: 5, check, tag }, FoundBy::Scrub, u64::MAX);
        assert_eq!(
            DamageReport::new(&list, 4096).to_string(),
            "LBA 5 (byte 20480): application tag error, expected 5342, actual 0000; found by the guest and \
             a scrub, first 1970-01-01T00:00:00Z, last at second 18446744073709551615\n\
             1 block of 4096 bytes is in the damage list\n"
        );
    }
}
