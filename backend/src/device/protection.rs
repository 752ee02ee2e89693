//! How the blocks of a device are protected, for the worker that generates and verifies.

use std::fmt;
use std::ops::Range;

use integrity::sidecar::{self, SidecarError};
use integrity::{IntegrityProfile, LengthError};

use crate::bounce::FOLIO_SIZE_MIN;

/// Generates and verifies the tuples of one device by byte offset.
#[derive(Debug, Clone, Copy)]
pub struct Protection {
    profile: IntegrityProfile,
}

impl Protection {
    /// Protection by a sidecar: its tuples, and its rule that a block never written has none and reads as zeros.
    pub fn sidecar(profile: IntegrityProfile) -> Self {
        Self { profile }
    }

    /// Bytes of metadata that a folio must hold for each of its 4096-byte pages.
    pub fn metadata_per_page(&self) -> usize {
        (FOLIO_SIZE_MIN * self.profile.metadata_size()).div_ceil(self.profile.interval_size())
    }

    /// The protection interval, in bytes.
    pub fn interval_size(&self) -> usize {
        self.profile.interval_size()
    }

    /// The interval that starts at byte `offset` of the device.
    pub fn interval(&self, offset: u64) -> u64 {
        offset / self.profile.interval_size() as u64
    }

    /// Bytes of metadata of `data_len` bytes of data.
    pub fn metadata_len(&self, data_len: usize) -> usize {
        self.profile.metadata_len(data_len)
    }

    /// The bytes of all intervals that bytes `part` of a transfer touch.
    pub fn touched(&self, part: Range<usize>) -> Range<usize> {
        let interval = self.profile.interval_size();
        part.start / interval * interval..part.end.next_multiple_of(interval)
    }

    /// Fills in the tuples of bytes `part`, whole intervals, of a transfer at byte `offset` of the device; `data` and
    /// `metadata` are those of the transfer and may be longer.
    pub fn generate(
        &self,
        offset: u64,
        part: Range<usize>,
        data: &[u8],
        metadata: &mut [u8],
    ) -> Result<(), LengthError> {
        let (first, tuples) = (self.interval(offset + part.start as u64), self.tuples(&part));
        sidecar::generate(&self.profile, first, &data[part], &mut metadata[tuples])
    }

    /// Checks bytes `part`, as for [`Self::generate`], against their tuples.
    pub fn verify(
        &self,
        offset: u64,
        part: Range<usize>,
        data: &[u8],
        metadata: &[u8],
    ) -> Result<(), SidecarError> {
        let (first, tuples) = (self.interval(offset + part.start as u64), self.tuples(&part));
        sidecar::verify(&self.profile, first, &data[part], &metadata[tuples])
    }

    fn tuples(&self, part: &Range<usize>) -> Range<usize> {
        self.metadata_len(part.start)..self.metadata_len(part.end)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sidecar, {} guard over {} bytes", self.profile.guard(), self.profile.interval_size())
    }
}
