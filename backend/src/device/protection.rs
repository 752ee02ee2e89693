//! How the blocks of a device are protected, for the worker that generates and verifies.

use std::fmt;
use std::ops::Range;

use integrity::sidecar::{self, Finding, Mismatch, SidecarError};
use integrity::{Checks, IntegrityProfile, LengthError, PiType, Tags, VerifyError};

use crate::device::bounce::FOLIO_SIZE_MIN;

/// Generates and verifies the tuples of one device by byte offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protection {
    profile: IntegrityProfile,
    rule: TupleRule,
    /// Bytes behind the metadata of each page of a folio that the device uses for itself.
    scratch_per_page: usize,
    /// The name of the place where the metadata is kept, for display.
    place: &'static str,
}

/// The rules that tuples follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TupleRule {
    /// The rules of [`integrity::sidecar`], for tuples that only this program writes: in a sidecar,
    /// or in metadata that is opaque to the device.
    Own,
    /// The rules of T10 and NVMe, for tuples that other writers and the device use too.
    Standard,
}

impl Protection {
    /// Protection by a sidecar: its tuples, and its rule that a block never written has none and
    /// reads as zeros.
    pub fn sidecar(profile: IntegrityProfile) -> Self {
        Self { profile, rule: TupleRule::Own, scratch_per_page: 0, place: "sidecar" }
    }

    /// Protection by a device that keeps tuples itself and is accessed by `place`.
    pub fn device(profile: IntegrityProfile, rule: TupleRule, place: &'static str) -> Self {
        Self { profile, rule, scratch_per_page: 0, place }
    }

    /// This protection, with room for `bytes` of the device's own behind the metadata of each
    /// 4096-byte page of a folio.
    #[must_use]
    pub fn with_scratch(self, bytes: usize) -> Self {
        Self { scratch_per_page: bytes, ..self }
    }

    /// How the tuples are laid out.
    pub fn profile(&self) -> &IntegrityProfile {
        &self.profile
    }

    /// The rules that the tuples follow.
    pub fn rule(&self) -> TupleRule {
        self.rule
    }

    /// Bytes of metadata that a folio must hold for each of its 4096-byte pages.
    pub fn metadata_per_page(&self) -> usize {
        let metadata = (FOLIO_SIZE_MIN * self.profile.metadata_size()).div_ceil(self.profile.interval_size());
        metadata + self.scratch_per_page
    }

    /// The reference tag of the interval at byte `offset`: its number, except for Type 3, which has
    /// none.
    pub fn reference(&self, offset: u64) -> u64 {
        match self.profile.pi_type() {
            PiType::Type1 | PiType::Type2 => self.interval(offset),
            PiType::Type3 => 0,
        }
    }

    /// Size of the protection interval, in bytes.
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

    /// Fills in the tuples of bytes `part`, whole intervals, of a transfer at byte `offset` of the
    /// device; `data` and `metadata` are those of the transfer and may be longer.
    pub fn generate(
        &self,
        offset: u64,
        part: Range<usize>,
        data: &[u8],
        metadata: &mut [u8],
    ) -> Result<(), LengthError> {
        let offset = offset + part.start as u64;
        let tuples = &mut metadata[self.tuples(&part)];
        if self.profile.metadata_size() > self.profile.tuple_size() {
            // no bytes of the folio's last use must be written, and the guard may cover these
            tuples.fill(0);
        }
        match self.rule {
            TupleRule::Own => sidecar::generate(&self.profile, self.interval(offset), &data[part], tuples),
            TupleRule::Standard => self.profile.generate(&self.tags(offset), &data[part], tuples),
        }
    }

    /// Checks bytes `part`, as for [`Self::generate`], against their tuples.
    pub fn verify(
        &self,
        offset: u64,
        part: Range<usize>,
        data: &[u8],
        metadata: &[u8],
    ) -> Result<(), SidecarError> {
        let offset = offset + part.start as u64;
        let tuples = &metadata[self.tuples(&part)];
        match self.rule {
            TupleRule::Own => sidecar::verify(&self.profile, self.interval(offset), &data[part], tuples),
            TupleRule::Standard => {
                let verified = self.profile.verify(&self.tags(offset), Checks::all(), &data[part], tuples);
                verified.map_err(|error| match error {
                    VerifyError::Pi(error) => Mismatch::Pi(error).into(),
                    VerifyError::Length(error) => error.into(),
                })
            }
        }
    }

    /// The intervals of bytes `part`, as for [`Self::verify`], that do not match their tuples.
    pub fn findings(&self, offset: u64, part: Range<usize>, data: &[u8], metadata: &[u8]) -> Vec<Finding> {
        let first = self.interval(offset + part.start as u64);
        let tuples = &metadata[self.tuples(&part)];
        if self.rule == TupleRule::Own {
            let found = sidecar::mismatches(&self.profile, first, &data[part], tuples);
            return found.map_or_else(|_| Vec::new(), |found| found.map(|it| (&it).into()).collect());
        }
        let step = self.interval_size();
        let each = part.step_by(step).filter_map(|at| {
            match self.verify(offset, at..at + step, data, metadata).err()? {
                SidecarError::Mismatch(mismatch) => Some(Finding::from(&mismatch)),
                SidecarError::Length(_) => None,
            }
        });
        each.collect()
    }

    /// Tags for the interval at byte `offset`. The application tag is 0, as in the kernel's own
    /// writes.
    fn tags(&self, offset: u64) -> Tags {
        Tags { reference: self.reference(offset), ..Tags::at_lba(self.interval(offset)) }
    }

    fn tuples(&self, part: &Range<usize>) -> Range<usize> {
        self.metadata_len(part.start)..self.metadata_len(part.end)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (guard, interval_size) = (self.profile.guard(), self.profile.interval_size());
        write!(f, "{}, {guard} guard over {interval_size} bytes", self.place)
    }
}
