//! A vhost-user disk, driven from this very guest: a back-end beside us serves it, no hypervisor is
//! in between.

use std::{mem::MaybeUninit, slice, time::Duration};

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};

use crate::Page;

/// The limit of a request's time: a longer one hangs.
const TIME_LIMIT: Duration = Duration::from_secs(60);
const QUEUES: usize = 2;
const REQUESTS_PER_QUEUE: usize = 32;
/// Requests that are in flight at a time, at most.
pub const REQUESTS: usize = REQUESTS_PER_QUEUE * QUEUES;

/// The kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Disk to memory.
    Read,
    /// Memory to disk.
    Write,
    /// `VIRTIO_BLK_T_DISCARD`
    Discard,
    /// `VIRTIO_BLK_T_WRITE_ZEROES`, which keeps the space, or with the flag that lets it go.
    WriteZeroes {
        /// `VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP`
        may_unmap: bool,
    },
}

/// A part of the disk, in bytes, and of the shared memory.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// The kind of request.
    pub action: Action,
    /// The place on the disk, in bytes.
    pub offset: u64,
    /// How much.
    pub len: usize,
    /// Where in the shared memory; of no effect where no data moves.
    pub memory: usize,
}

/// A connected disk and the memory it shares with the back-end.
pub struct VhostDisk {
    queues: Queues,
    region: MemoryRegion,
    // last: the memory is its
    _blkio: Blkio,
}

/// The queues of a disk.
pub struct Queues {
    queues: Vec<Blkioq>,
    memory: usize,
}

impl VhostDisk {
    /// Connects to the back-end at `socket` and shares `memory_len` bytes with it.
    ///
    /// # Errors
    /// What the back-end or the library said.
    pub fn connect(socket: &str, memory_len: usize) -> Result<Self, String> {
        let fail = |error: blkio::Error| format!("{socket}: {}", error.message());
        let mut blkio = Blkio::new("virtio-blk-vhost-user").map_err(fail)?;
        blkio.set_str("path", socket).map_err(fail)?;
        blkio.connect().map_err(fail)?;
        blkio.set_i32("num-queues", 2).map_err(fail)?;
        let queues = blkio.start().map_err(fail)?.queues;
        let region = blkio.alloc_mem_region(memory_len).map_err(fail)?;
        blkio.map_mem_region(&region).map_err(fail)?;
        Ok(Self { queues: Queues { queues, memory: region.addr }, region, _blkio: blkio })
    }

    /// The shared memory, which any thread may change at any time, and the queues.
    pub fn parts(&mut self) -> (&[Page], &mut Queues) {
        let (first, count) = (self.region.addr as *const Page, self.region.len / Page::BYTES);
        // SAFETY: the region is mapped for as long as `_blkio` lives and page-aligned, and all its
        // bytes lie in atomics.
        (unsafe { slice::from_raw_parts(first, count) }, &mut self.queues)
    }
}

impl Queues {
    /// Does all of `requests`, as many at a time as the queues hold, and calls `each` with every
    /// one that fails.
    ///
    /// # Errors
    /// When the library fails, or a request does not end.
    pub fn perform(
        &mut self,
        requests: &[Request],
        mut failed: impl FnMut(&Request, i32),
    ) -> Result<(), String> {
        for batch in requests.chunks(REQUESTS) {
            for (index, request) in batch.iter().enumerate() {
                self.start(request, index);
            }
            for (queue, count) in [batch.len().div_ceil(QUEUES), batch.len() / QUEUES].into_iter().enumerate()
            {
                for (index, result) in self.wait(queue, count)? {
                    if result < 0 {
                        failed(&batch[index], result);
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes what was written durable.
    ///
    /// # Errors
    /// When that fails.
    pub fn flush(&mut self) -> Result<(), String> {
        self.queues[0].flush(0, ReqFlags::empty());
        match self.wait(0, 1)?[..] {
            [(_, 0)] => Ok(()),
            ref other => Err(format!("flush: {other:?}")),
        }
    }

    fn start(&mut self, request: &Request, user_data: usize) {
        let Request { action, offset, len, memory } = *request;
        let buffer = (self.memory + memory) as *mut u8;
        let queue = &mut self.queues[user_data % QUEUES];
        match action {
            Action::Read => queue.read(offset, buffer, len, user_data, ReqFlags::empty()),
            Action::Write => queue.write(offset, buffer, len, user_data, ReqFlags::empty()),
            Action::Discard => queue.discard(offset, len as u64, user_data, ReqFlags::empty()),
            Action::WriteZeroes { may_unmap } => {
                let flags = if may_unmap { ReqFlags::empty() } else { ReqFlags::NO_UNMAP };
                queue.write_zeroes(offset, len as u64, user_data, flags);
            }
        }
    }

    /// `user_data` and result of the next `count` requests of a queue.
    fn wait(&mut self, queue: usize, count: usize) -> Result<Vec<(usize, i32)>, String> {
        let mut completions: Vec<MaybeUninit<Completion>> =
            (0..count).map(|_| MaybeUninit::uninit()).collect();
        let mut limit = TIME_LIMIT;
        let done = self.queues[queue].do_io(&mut completions, count, Some(&mut limit), None);
        let done = done.map_err(|error| format!("waiting for the disk: {}", error.message()))?;
        Ok(completions
            .into_iter()
            .take(done)
            .map(|completion| {
                // SAFETY: `do_io` has filled as many as it returned.
                let completion = unsafe { completion.assume_init() };
                (completion.user_data, completion.ret)
            })
            .collect())
    }
}
