//! Why a disk does not grow.

use std::io;

use integrity::sidecar::SuperblockError;
use thiserror::Error;

/// Why a disk does not grow.
#[derive(Debug, Error)]
pub enum GrowthError {
    /// The end of the disk is gone, with what the guest wrote there.
    #[error(
        "the image has been cut off at {now} bytes, the guest's disk has {served}: what was behind is lost; give it its size back"
    )]
    CutOff {
        /// Size of the storage, in bytes.
        now: u64,
        /// Size of the disk, in bytes.
        served: u64,
    },
    /// The disk would lose blocks that are in use.
    #[error("{size} bytes are less than the {now} that the image has: a disk can only grow")]
    Shrinks {
        /// The size asked for, in bytes.
        size: u64,
        /// Size of the storage, in bytes.
        now: u64,
    },
    /// Not a whole number of blocks.
    #[error("{size} bytes are not a multiple of {unit}: make it {rounded}")]
    Uneven {
        /// Asked for, or found, in bytes.
        size: u64,
        /// Block, interval or alignment, in bytes.
        unit: u64,
        /// The next size that will do, in bytes.
        rounded: u64,
    },
    /// A device has the size it has.
    #[error("the device has {now} bytes, not {size}: grow the device first, then ask again without a size")]
    DeviceFirst {
        /// Of the device, in bytes.
        now: u64,
        /// The size asked for, in bytes.
        size: u64,
    },
    /// Not ours to change.
    #[error("the disk is not held here: resize it on the host that serves it")]
    NotHeld,
    /// The storage and its sidecar are only read here.
    #[error("the image is served read-only: resize it where it is written, or restart")]
    ReadOnly,
    /// The sidecar has no room.
    #[error("the sidecar cannot cover that size")]
    Sidecar(#[source] SuperblockError),
    /// The device cannot grow.
    #[error("a device of this kind cannot grow")]
    Unsupported,
    /// The system said no.
    #[error("cannot grow the image or its sidecar")]
    Io(#[from] io::Error),
}
