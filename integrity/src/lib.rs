//! T10/NVMe protection information (PI) over byte slices.
//!
//! Each protection interval of data - 512 to 65536 bytes, mostly one logical block - has a *tuple*
//! of 8 or 16 bytes in its metadata. The *guard tag* is a checksum of the data, the *reference tag*
//! says which block it is, the *application tag* and *storage tag* are the owner's. Data that is
//! torn, corrupt or of another block no longer agrees with its tuple.
//!
//! | guard | tuple | standard |
//! |---|---|---|
//! | [`Crc16T10Dif`](Guard::Crc16T10Dif) | 8 bytes | SCSI SBC-4, NVMe 16b guard |
//! | [`IpChecksum`](Guard::IpChecksum) | 8 bytes | DIX, between host and HBA |
//! | [`Crc32c`](Guard::Crc32c) | 16 bytes, with storage tag | NVMe 32b guard |
//! | [`Crc64Nvme`](Guard::Crc64Nvme) | 16 bytes, with storage tag | NVMe 64b guard |
//!
//! An [`IntegrityProfile`] describes a format and is checked when it is made. [`Tags`] are the seed
//! of a request, [`Checks`] the tags to compare. Metadata is in a buffer of its own (DIX) or
//! interleaved with the data (DIF), with the tuple first or last in it; data and blocks come as one
//! slice or as a list of slices cut anywhere.
//!
//! | | separate metadata | interleaved |
//! |---|---|---|
//! | write tuples | [`generate`](IntegrityProfile::generate), [`generate_vectored`](IntegrityProfile::generate_vectored) | [`generate_interleaved`](IntegrityProfile::generate_interleaved) |
//! | check them | [`verify`](IntegrityProfile::verify), [`verify_vectored`](IntegrityProfile::verify_vectored) | [`verify_interleaved`](IntegrityProfile::verify_interleaved) |
//! | renumber them | [`remap`](IntegrityProfile::remap) | [`remap_interleaved`](IntegrityProfile::remap_interleaved) |
//!
//! ```
//! use stableblk_integrity::{Checks, Guard, IntegrityProfile, PiType, Tags};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // an NVMe namespace of 4096-byte blocks, 16 bytes of metadata and the 64b guard
//! let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096)?;
//! let tags = Tags { application: 0x1234, ..Tags::at_lba(64) };
//!
//! let mut data = vec![0x5A; 2 * 4096];
//! let mut metadata = vec![0; profile.metadata_len(data.len())];
//! profile.generate(&tags, &data, &mut metadata)?;
//! profile.verify(&tags, Checks::all(), &data, &metadata)?;
//!
//! // a guest that rewrites a page under I/O does this
//! data[5000] ^= 1;
//! let error = profile.verify(&tags, Checks::all(), &data, &metadata).unwrap_err();
//! assert!(error.to_string().starts_with("guard tag error at LBA 65 (rcvd "));
//!
//! // the right block at the wrong place
//! let misdirected = profile.verify(&Tags { application: 0x1234, ..Tags::at_lba(80) }, Checks::all(), &[0x5A; 4096], &metadata);
//! assert_eq!(misdirected.unwrap_err().to_string(), "ref tag error at location 80 (rcvd 64, want 80)");
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here allocates, blocks or panics, and no code is unsafe. Sections cited are those of the
//! NVM Command Set specification 1.0c. [`sidecar`] keeps tuples for disks that have no room for
//! them.
#![forbid(unsafe_code)]

mod expected;
mod generate;
mod guard;
mod internet_checksum;
mod kernel;
mod length;
mod pi_error;
mod profile;
mod remap;
pub mod sidecar;
mod slice_cursor;
mod tags;
mod tuple;
mod verify;

pub use guard::{Guard, GuardDigest};
pub use kernel::LogicalBlockMetadataCap;
pub use length::LengthError;
pub use pi_error::{PiError, Tag, VerifyError};
pub use profile::{IntegrityProfile, PiType, ProfileError, TuplePlace};
pub use tags::{Checks, Tags};
pub use tuple::Tuple;
