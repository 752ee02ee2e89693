//! A client that is not ours: `blkio`, driver virtio-blk-vhost-user, which shares no code with the
//! back-end.

#![expect(unsafe_code, reason = "blkio fills an array of uninitialized completions")]

use std::fmt;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use blkio::{Blkio, Blkioq, Completion, Error, MemoryRegion};
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// The limit of the wait for a completion: a longer one hangs.
pub const TIME_LIMIT: Duration = Duration::from_secs(120);

/// A connected client with memory of its own, from which it writes and into which it reads.
pub struct Client {
    /// The queues of the client.
    pub queues: Vec<Blkioq>,
    /// The properties of the client.
    pub blkio: Blkio,
    memory: GuestMemoryMmap,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("memory", &self.memory).finish_non_exhaustive()
    }
}

/// Connects to the back-end at `socket`.
///
/// # Errors
/// What `blkio` says.
pub fn connect(socket: &Path, read_only: bool) -> Result<Blkio, Error> {
    let mut blkio = Blkio::new("virtio-blk-vhost-user")?;
    blkio.set_str("path", &socket.to_string_lossy())?;
    blkio.set_bool("read-only", read_only)?;
    blkio.connect()?;
    Ok(blkio)
}

impl Client {
    /// Starts `num_queues` queues, with `buffer_len` bytes of memory.
    ///
    /// # Errors
    /// What `blkio` says.
    ///
    /// # Panics
    /// When there is no memory.
    pub fn start(mut blkio: Blkio, num_queues: i32, buffer_len: usize) -> Result<Self, Error> {
        blkio.set_i32("num-queues", num_queues)?;
        let queues = blkio.start()?.queues;
        let file = File::from(memfd_create("client", MemfdFlags::CLOEXEC).expect("memfd"));
        file.set_len(buffer_len as u64).expect("memfd");
        let fd = file.as_raw_fd();
        let range = (GuestAddress(0), buffer_len, Some(FileOffset::new(file, 0)));
        let memory = GuestMemoryMmap::from_ranges_with_files([range]).expect("mapping");
        let addr = memory.get_host_address(GuestAddress(0)).expect("mapped").addr();
        blkio.map_mem_region(&MemoryRegion { addr, iova: 0, len: buffer_len, fd, fd_offset: 0, flags: 0 })?;
        Ok(Self { queues, blkio, memory })
    }

    /// Where the buffer at `offset` of the client's memory is in this process.
    ///
    /// # Panics
    /// When it is not in that memory.
    #[must_use]
    pub fn buffer(&self, offset: usize) -> *mut u8 {
        self.memory.get_host_address(GuestAddress(offset as u64)).expect("offset within memory")
    }

    /// Puts `data` at `offset` of the client's memory.
    ///
    /// # Panics
    /// When that has no room for it.
    pub fn fill(&self, offset: usize, data: &[u8]) {
        self.memory.write_slice(data, GuestAddress(offset as u64)).expect("offset within memory");
    }

    /// The bytes at `offset` of the client's memory.
    ///
    /// # Panics
    /// When it is not in that memory.
    #[must_use]
    pub fn contents(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.memory.read_slice(&mut data, GuestAddress(offset as u64)).expect("offset within memory");
        data
    }

    /// Waits for `count` completions of a queue. Returns their `user_data` and results.
    ///
    /// # Panics
    /// When they do not come within [`TIME_LIMIT`].
    pub fn complete(&mut self, queue: usize, count: usize) -> Vec<(usize, i32)> {
        self.reap(queue, count, count)
    }

    /// As [`Self::complete`], for at least `least`; takes up to `most` that are there.
    ///
    /// # Panics
    /// When they do not come within [`TIME_LIMIT`].
    pub fn reap(&mut self, queue: usize, least: usize, most: usize) -> Vec<(usize, i32)> {
        let mut completions: Vec<MaybeUninit<Completion>> =
            (0..most).map(|_| MaybeUninit::uninit()).collect();
        let mut limit = TIME_LIMIT;
        let done = self.queues[queue].do_io(&mut completions, least, Some(&mut limit), None);
        let initialized = completions.into_iter().take(done.expect("completions")).map(|completion| {
            // SAFETY: `do_io` has filled as many as it returned, and these are taken.
            unsafe { completion.assume_init() }
        });
        initialized.map(|completion| (completion.user_data, completion.ret)).collect()
    }
}
