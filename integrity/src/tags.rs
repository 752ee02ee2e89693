//! A caller's knowledge of the tags: the values to write or expect, and which of them to check.

use bitflags::bitflags;

bitflags! {
    /// The tags that [`verify`](crate::IntegrityProfile::verify) checks: NVMe's PRCHK field and
    /// storage tag check.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Checks: u8 {
        /// The guard tag covers the data as it is.
        const GUARD = 1 << 0;
        /// The application tag is the expected one, under the application tag mask.
        const APPLICATION = 1 << 1;
        /// The reference tag is the interval's. Without effect on Type 3, whose reference tag is
        /// opaque.
        const REFERENCE = 1 << 2;
        /// The storage tag is the expected one. Without effect where the profile has no storage
        /// tag.
        const STORAGE = 1 << 3;
    }
}

/// The seed of a request: the tags of its first interval, to be written or to be expected.
///
/// The reference tag of the intervals that follow is derived by the rules of the
/// [`PiType`](crate::PiType). Values wider than the profile's field are cut to the field's low
/// bits, as Type 1 does to an LBA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tags {
    /// LBA of the first interval, counted in intervals. It only names intervals in errors.
    pub lba: u64,
    /// Initial reference tag: NVMe's ILBRT for a write, EILBRT for a read.
    pub reference: u64,
    /// Application tag (LBAT, ELBAT). Writing 0xFFFF makes an escape: see
    /// [`verify`](crate::IntegrityProfile::verify).
    pub application: u16,
    /// Application tag mask (LBATM, ELBATM): the bits that are compared. Of no effect on
    /// `generate`.
    pub application_mask: u16,
    /// Storage tag (LBST, ELBST).
    pub storage: u64,
}

impl Tags {
    /// The seed of a Type 1 request that starts at `lba`: the reference tag is the LBA, the other
    /// tags are 0 and the application tag is compared in full.
    #[must_use]
    pub const fn at_lba(lba: u64) -> Self {
        Self { lba, reference: lba, application: 0, application_mask: u16::MAX, storage: 0 }
    }
}
