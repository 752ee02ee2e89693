//! The in-flight region as a front-end keeps it: asked of one back-end, given to the next, and
//! looked at word for word.

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserInflight;
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

use super::Frontend;

/// A region, kept by the front-end.
pub(crate) struct InflightRegion {
    pub(crate) message: VhostUserInflight,
    pub(crate) file: File,
    mapping: MmapRegion<()>,
}

/// `DescStateSplit` and `QueueRegionSplit`, by the offsets of the vhost-user specification.
pub(crate) const VERSION: usize = 8;
pub(crate) const DESC_NUM: usize = 10;
pub(crate) const LAST_BATCH_HEAD: usize = 12;
pub(crate) const USED_IDX: usize = 14;

/// Where `desc[head]` is in a queue's part.
pub(crate) fn descriptor(head: u16) -> usize {
    16 + 16 * usize::from(head)
}

/// In `DescStateSplit`.
pub(crate) const INFLIGHT: usize = 0;
pub(crate) const NEXT: usize = 6;
pub(crate) const COUNTER: usize = 8;

impl InflightRegion {
    /// Asks for a region for `queues` queues of `size` entries.
    pub(crate) fn ask(frontend: &mut Frontend, queues: u16, size: u16) -> Self {
        let asked = VhostUserInflight::new(0, 0, queues, size);
        let (message, file) = frontend.protocol.get_inflight_fd(&asked).unwrap();
        Self::over(message, file)
    }

    /// A region of the front-end's own making, all zeros.
    pub(crate) fn make(queues: u16, size: u16) -> Self {
        let len = u64::from(queues) * part_len(size) as u64;
        let file = File::from(memfd_create("inflight", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(len).unwrap();
        Self::over(VhostUserInflight::new(len, 0, queues, size), file)
    }

    fn over(message: VhostUserInflight, file: File) -> Self {
        let len = usize::try_from(message.mmap_size).unwrap();
        let offset = FileOffset::new(file.try_clone().unwrap(), message.mmap_offset);
        let mapping = MmapRegion::from_file(offset, len).unwrap();
        Self { message, file, mapping }
    }

    /// Gives the region to a back-end, which must be done before a queue is started.
    pub(crate) fn give_to(&self, frontend: &mut Frontend) {
        frontend.protocol.set_inflight_fd(&self.message, self.file.as_raw_fd()).unwrap();
    }

    /// All of one queue's part.
    pub(crate) fn part(&self, queue: usize) -> Vec<u8> {
        let len = part_len(self.message.queue_size);
        let mut part = vec![0; len];
        self.mapping.as_volatile_slice().read_slice(&mut part, queue * len).unwrap();
        part
    }

    /// Writes into one queue's part.
    pub(crate) fn write(&self, queue: usize, offset: usize, bytes: &[u8]) {
        let start = queue * part_len(self.message.queue_size);
        self.mapping.as_volatile_slice().write_slice(bytes, start + offset).unwrap();
    }

    /// The heads that a queue's part has in flight, in no order.
    pub(crate) fn in_flight(&self, queue: usize) -> Vec<u16> {
        let part = self.part(queue);
        (0..self.message.queue_size).filter(|head| part[descriptor(*head) + INFLIGHT] != 0).collect()
    }
}

/// Length of one queue's part: whole cache lines.
fn part_len(queue_size: u16) -> usize {
    descriptor(queue_size).next_multiple_of(64)
}
