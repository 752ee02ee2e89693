//! The limits of a device: the checks that every request passes before it reaches the disk (virtio
//! 1.2, 5.2.6.2).

use crate::config::{ConfigSpace, Features};
use crate::pending::Status;
use crate::request::{Operation, Range, Request, SECTOR_SIZE};

/// The limits that requests are checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskLimits {
    /// Size of the disk in sectors of 512 bytes.
    pub capacity_sectors: u64,
    /// Guest block size in bytes, a multiple of 512: what the start and length of a range are
    /// multiples of.
    pub block_size: u32,
    /// Whether the disk refuses to change.
    pub read_only: bool,
    /// Limits of a discard request; `None` where the device does not offer it.
    pub discard: Option<RangeLimits>,
    /// Limits of a write zeroes request; `None` where the device does not offer it.
    pub write_zeroes: Option<RangeLimits>,
}

/// Limits of a request that carries ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeLimits {
    /// Sectors in one range.
    pub sectors_max: u32,
    /// Ranges in one request.
    pub ranges_max: u32,
}

impl DiskLimits {
    /// The limits that this configuration space and these features give to the driver.
    #[must_use]
    pub fn new(config: &ConfigSpace, features: Features) -> Self {
        let discard =
            RangeLimits { sectors_max: config.max_discard_sectors, ranges_max: config.max_discard_seg };
        let write_zeroes = RangeLimits {
            sectors_max: config.max_write_zeroes_sectors,
            ranges_max: config.max_write_zeroes_seg,
        };
        Self {
            capacity_sectors: config.capacity_sectors,
            block_size: config.block_size,
            read_only: features.contains(Features::RO),
            discard: features.contains(Features::DISCARD).then_some(discard),
            write_zeroes: features.contains(Features::WRITE_ZEROES).then_some(write_zeroes),
        }
    }

    /// Whether `len` bytes from `sector` on are whole blocks of the disk.
    fn check_extent(&self, sector: u64, len: u64) -> Result<(), Status> {
        let in_range = self
            .capacity_sectors
            .checked_sub(sector)
            .is_some_and(|sectors| len.div_ceil(SECTOR_SIZE) <= sectors);
        let start = sector.checked_mul(SECTOR_SIZE);
        let is_aligned = |bytes: u64| bytes.is_multiple_of(u64::from(self.block_size));
        if in_range && start.is_some_and(is_aligned) && is_aligned(len) { Ok(()) } else { Err(Status::IoErr) }
    }

    fn check_writable(&self) -> Result<(), Status> {
        if self.read_only { Err(Status::IoErr) } else { Ok(()) }
    }

    /// Flags come before ranges: an unknown flag must give UNSUPP whatever else is wrong.
    fn check_ranges(
        &self,
        ranges: &[Range],
        limits: Option<RangeLimits>,
        known_flags: u32,
    ) -> Result<(), Status> {
        let limits = limits.ok_or(Status::Unsupp)?;
        if ranges.len() as u64 > u64::from(limits.ranges_max) {
            return Err(Status::Unsupp);
        }
        if ranges.iter().any(|range| range.flags & !known_flags != 0) {
            return Err(Status::Unsupp);
        }
        self.check_writable()?;
        ranges.iter().try_for_each(|range| {
            if range.num_sectors > limits.sectors_max {
                return Err(Status::IoErr);
            }
            self.check_extent(range.sector, u64::from(range.num_sectors) * SECTOR_SIZE)
        })
    }
}

impl Request {
    /// Checks the request against the device's limits.
    ///
    /// A request that passes may still be empty: a read or write of no bytes, or a range of no
    /// sectors, is valid within the disk, and succeeds without reaching it.
    ///
    /// # Errors
    ///
    /// The status to answer with:
    ///
    /// - [`Status::Unsupp`] for an unknown type, a discard or write zeroes request that the device
    ///   does not offer or that has more ranges than it allows, an unknown flag, and the unmap flag
    ///   in a discard request;
    /// - [`Status::IoErr`] for a range that is larger than allowed, ends past the capacity or is
    ///   not made of whole blocks, and for anything that changes a read-only disk.
    pub fn check(&self, limits: &DiskLimits) -> Result<(), Status> {
        match &self.operation {
            Operation::Read { sector } => limits.check_extent(*sector, self.data.len()),
            Operation::Write { sector } => {
                limits.check_writable()?;
                limits.check_extent(*sector, self.data.len())
            }
            Operation::Flush | Operation::GetId => Ok(()),
            Operation::Discard(ranges) => limits.check_ranges(ranges, limits.discard, 0),
            Operation::WriteZeroes(ranges) => limits.check_ranges(ranges, limits.write_zeroes, Range::UNMAP),
            Operation::Unknown(_) => Err(Status::Unsupp),
        }
    }
}
