//! How the blocks of a device are protected, for the worker that generates and verifies.

use std::fmt;

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

    /// Fills in the tuples of `data`, which lies at byte `offset`; both in whole intervals. `metadata` may be longer.
    pub fn generate(&self, offset: u64, data: &[u8], metadata: &mut [u8]) -> Result<(), LengthError> {
        let metadata = &mut metadata[..self.profile.metadata_len(data.len())];
        sidecar::generate(&self.profile, self.interval(offset), data, metadata)
    }

    /// Checks `data`, read at byte `offset`, against its tuples.
    pub fn verify(&self, offset: u64, data: &[u8], metadata: &[u8]) -> Result<(), SidecarError> {
        let metadata = &metadata[..self.profile.metadata_len(data.len())];
        sidecar::verify(&self.profile, self.interval(offset), data, metadata)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sidecar, {} guard over {} bytes", self.profile.guard(), self.profile.interval_size())
    }
}
