//! T10/NVMe protection information (PI) over byte slices.
#![forbid(unsafe_code)]

mod cursor;
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
