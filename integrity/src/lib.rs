//! T10/NVMe protection information (PI) over byte slices.
#![forbid(unsafe_code)]

mod generate;
mod guard;
mod internet_checksum;
mod length;
mod profile;
pub mod sidecar;
mod tags;
mod tuple;
mod verify;

pub use guard::{Guard, GuardDigest};
pub use length::LengthError;
pub use profile::{IntegrityProfile, PiType, ProfileError, TuplePlace};
pub use tags::{Checks, Tags};
pub use tuple::Tuple;
pub use verify::{PiError, Tag, VerifyError};
