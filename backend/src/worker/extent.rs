//! How a request is cut into transfers of whole granules.

use crate::device::bounce::FOLIO_SIZE_MAX;
use crate::device::operation::TransferDirection;

/// A part of the device that one transfer covers, and the place of the request's data in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Where it starts on the device, in bytes.
    pub(super) device_offset: u64,
    /// Length of the extent, in bytes.
    pub(super) device_len: usize,
    /// Bytes of the extent before the request's data.
    pub(super) lead: usize,
    /// Bytes of the extent after the request's data.
    pub(super) trail: usize,
}

impl Extent {
    /// The next part of bytes `from..to`. A read is widened to granules. A write that covers no
    /// whole granule is the one granule it is merged into; otherwise it is the whole granules.
    pub(super) fn next(direction: TransferDirection, from: u64, to: u64, granule: usize) -> Self {
        let wide = granule as u64;
        let device_offset = from / wide * wide;
        let end = match direction {
            TransferDirection::Read => to.next_multiple_of(wide),
            TransferDirection::Write if device_offset < from || to - from < wide => device_offset + wide,
            TransferDirection::Write => to / wide * wide,
        };
        let device_len = (end - device_offset).min(FOLIO_SIZE_MAX as u64);
        let trail = (device_offset + device_len).saturating_sub(to);
        #[expect(clippy::cast_possible_truncation, reason = "at most a folio, or a granule")]
        let small = |bytes: u64| bytes as usize;
        Self {
            device_offset,
            device_len: small(device_len),
            lead: small(from - device_offset),
            trail: small(trail),
        }
    }

    /// This extent, cut to at most `len` bytes (at least a granule).
    #[must_use]
    pub(super) fn within(self, len: usize, granule: usize) -> Self {
        let device_len = self.device_len.min(len / granule * granule);
        let trail = self.trail.saturating_sub(self.device_len - device_len);
        Self { device_len, trail, ..self }
    }

    /// Bytes of the request's data in it.
    pub(super) fn data_len(&self) -> usize {
        self.device_len - self.lead - self.trail
    }

    /// Whether it has bytes that are not the request's.
    pub(super) fn is_partial(&self) -> bool {
        self.lead > 0 || self.trail > 0
    }
}

/// The number of bytes in the whole granules that bytes `from..to` begin with; `None` when they
/// begin with a part of one.
pub(super) fn whole_granules(from: u64, to: u64, granule: usize) -> Option<u64> {
    let wide = granule as u64;
    let end = to / wide * wide;
    (from.is_multiple_of(wide) && end > from).then(|| end - from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn extents_cover_each_byte_once_in_whole_granules(
            sectors in 0u64..5000, count in 1u64..6000, exponent in 9u32..17, write in any::<bool>(), folio in 0usize..5
        ) {
            let granule = 1usize << exponent;
            let (start, end) = (sectors * 512, (sectors + count) * 512);
            let direction = if write { TransferDirection::Write } else { TransferDirection::Read };
            let mut at = start;
            while at < end {
                let whole = Extent::next(direction, at, end, granule);
                let extent = whole.within((whole.device_len >> folio).max(granule), granule);
                prop_assert!(extent.device_len > 0 && extent.device_len.is_multiple_of(granule));
                prop_assert!(extent.device_offset.is_multiple_of(granule as u64));
                prop_assert!(extent.device_len <= FOLIO_SIZE_MAX);
                prop_assert_eq!(extent.device_offset + extent.lead as u64, at);
                prop_assert!(extent.data_len() > 0);
                // a write either is merged into one granule or covers what it writes
                prop_assert!(!write || !extent.is_partial() || extent.device_len == granule);
                at += extent.data_len() as u64;
            }
            prop_assert_eq!(at, end);
        }
    }
}
