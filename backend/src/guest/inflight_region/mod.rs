//! The in-flight region (vhost-user, "Inflight I/O tracking"): memory that outlives this process,
//! in which each queue notes the requests that it has popped and not returned. A successor reads
//! there which requests it must carry out again.
//!
//! We make the region. The front-end keeps it and gives it to the next process that serves, so its
//! contents are untrusted: sizes are checked when it is mapped, and [`InflightQueue`] checks every
//! value that it reads.

mod queue;

use std::fs::File;
use std::io;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use thiserror::Error;
use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::MmapRegion;

pub use self::queue::InflightQueue;
use crate::guest::mapping::{self, MappingError};
use crate::guest::sigbus::{Loss, WatchedMapping};

/// Size of `QueueRegionSplit` up to its descriptor states.
const QUEUE_HEADER_SIZE: usize = 16;
/// Size of `DescStateSplit`.
const DESCRIPTOR_SIZE: usize = 16;
/// Queues begin at multiples of this, as libvhost-user's do: a cache line each.
const QUEUE_ALIGNMENT: usize = 64;

/// Why a region cannot be used.
#[derive(Debug, Error)]
pub enum InflightError {
    /// The region has more queues than the disk.
    #[error("an in-flight region for {asked} queues, but there are {most}: raise --num-queues")]
    Queues {
        /// Queues of the region.
        asked: u16,
        /// Queues of the disk.
        most: usize,
    },
    /// The region is for larger rings than are accepted.
    #[error("an in-flight region for rings of {asked} entries, more than --queue-size {most}")]
    QueueSize {
        /// Entries of the region's rings.
        asked: u16,
        /// Entries accepted.
        most: u16,
    },
    /// The region has less room than its queues need.
    #[error("an in-flight region of {size} bytes, where its queues need {needed}")]
    TooSmall {
        /// Length of the region, in bytes.
        size: u64,
        /// The bytes that its queues need.
        needed: usize,
    },
    /// The layout of a queue has an unknown version.
    #[error("the in-flight region of queue {queue} has version {version}, not 1")]
    Version {
        /// The queue.
        queue: usize,
        /// The version.
        version: u16,
    },
    /// The part of a ring has no room for it, or was made for another size.
    #[error(
        "a ring of {ring_size} entries, but the in-flight region of queue {queue} was made for {desc_num}"
    )]
    RingSize {
        /// The queue.
        queue: usize,
        /// Entries of the ring.
        ring_size: u16,
        /// Entries of the region's part.
        desc_num: u16,
    },
    /// The file could not be made.
    #[error("cannot make an in-flight region")]
    Create(#[source] io::Error),
    /// The file ends before the region does, or cannot be mapped.
    #[error("cannot use the in-flight region")]
    Mapping(#[from] MappingError),
}

/// Size of the part of a queue of `queue_size` entries, in bytes.
fn queue_len(queue_size: u16) -> usize {
    (QUEUE_HEADER_SIZE + usize::from(queue_size) * DESCRIPTOR_SIZE).next_multiple_of(QUEUE_ALIGNMENT)
}

/// The largest region that is accepted.
#[derive(Debug, Clone, Copy)]
pub struct InflightLimits {
    /// Queues of the disk.
    pub queues: usize,
    /// Entries of the largest ring accepted.
    pub queue_size: u16,
}

impl InflightLimits {
    /// The bytes that the queues which `inflight` is for need.
    fn check(self, inflight: &VhostUserInflight) -> Result<usize, InflightError> {
        let VhostUserInflight { num_queues, queue_size, .. } = *inflight;
        if usize::from(num_queues) > self.queues {
            return Err(InflightError::Queues { asked: num_queues, most: self.queues });
        }
        if queue_size > self.queue_size {
            return Err(InflightError::QueueSize { asked: queue_size, most: self.queue_size });
        }
        Ok(usize::from(num_queues) * queue_len(queue_size))
    }
}

/// Makes an empty region for the queues that `asked` names, in a file whose size is sealed
/// (`VHOST_USER_GET_INFLIGHT_FD`).
pub fn create(
    asked: &VhostUserInflight,
    limits: InflightLimits,
) -> Result<(VhostUserInflight, File), InflightError> {
    let len = limits.check(asked)? as u64;
    let make = || -> io::Result<File> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = File::from(memfd_create("stableblk-inflight", flags)?);
        file.set_len(len)?;
        fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(file)
    };
    let file = make().map_err(InflightError::Create)?;
    Ok((VhostUserInflight { mmap_size: len, mmap_offset: 0, ..*asked }, file))
}

/// A mapped region.
#[derive(Debug)]
pub struct InflightRegion {
    mapping: WatchedMapping<MmapRegion<()>>,
    queues: usize,
    queue_size: u16,
}

impl InflightRegion {
    /// Maps the region that `inflight` describes in `file` (`VHOST_USER_SET_INFLIGHT_FD`).
    pub fn map(
        inflight: &VhostUserInflight,
        file: File,
        limits: InflightLimits,
    ) -> Result<Self, InflightError> {
        let needed = limits.check(inflight)?;
        let VhostUserInflight { mmap_size: size, mmap_offset: offset, num_queues, queue_size } = *inflight;
        if size < needed as u64 {
            return Err(InflightError::TooSmall { size, needed });
        }
        let mapping = mapping::map(file, offset, size, ())?;
        Ok(Self { mapping, queues: num_queues.into(), queue_size })
    }

    /// Why the region is lost, if it is.
    pub fn loss(&self) -> Option<Loss> {
        self.mapping.loss()
    }
}
