//! The guest's memory: one memfd, shared with the back-end in two regions, as a machine with a hole
//! below 4 GiB has it.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

/// Where the rings, headers and status bytes go.
const LOW: u64 = 0x10_0000;
const LOW_SIZE: u64 = 16 << 20;
/// Where the data goes.
const HIGH: u64 = 1 << 32;
const HIGH_SIZE: u64 = 256 << 20;
const PAGE_SIZE: u64 = 4096;
const PAGE_LEN: usize = 4096;

/// Guest memory, with room handed out and never taken back.
#[derive(Debug)]
pub(crate) struct GuestMemory {
    mmap: Arc<GuestMemoryMmap>,
    file: File,
    next_low: AtomicU64,
    next_high: AtomicU64,
}

impl GuestMemory {
    /// The first address past all regions.
    pub(crate) const END: u64 = HIGH + HIGH_SIZE;

    /// An address that is in no region, between the two that there are.
    pub(crate) const HOLE: u64 = HIGH - PAGE_SIZE;

    /// Shared by the front-end, its queues and the test, and there until the last of them is gone.
    pub(crate) fn new() -> Arc<Self> {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(LOW_SIZE + HIGH_SIZE).unwrap();
        let region = |start, size: u64, offset| {
            let file = FileOffset::new(file.try_clone().unwrap(), offset);
            (GuestAddress(start), usize::try_from(size).unwrap(), Some(file))
        };
        let ranges = [region(LOW, LOW_SIZE, 0), region(HIGH, HIGH_SIZE, LOW_SIZE)];
        Arc::new(Self {
            mmap: Arc::new(GuestMemoryMmap::from_ranges_with_files(ranges).unwrap()),
            file,
            next_low: AtomicU64::new(LOW),
            next_high: AtomicU64::new(HIGH),
        })
    }

    pub(crate) fn mmap(&self) -> &Arc<GuestMemoryMmap> {
        &self.mmap
    }

    /// The regions, as a front-end shares them.
    pub(crate) fn regions(&self) -> Vec<VhostUserMemoryRegionInfo> {
        let info = |region: &GuestRegionMmap| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap();
        self.mmap.iter().map(info).collect()
    }

    /// Where the front-end's process sees `address`.
    pub(crate) fn frontend_address(&self, address: GuestAddress) -> u64 {
        self.mmap.get_host_address(address).unwrap().addr() as u64
    }

    /// Where `address` is in the file.
    pub(crate) fn file_offset(&self, address: GuestAddress) -> u64 {
        let (region, offset) = self.mmap.to_region_addr(address).unwrap();
        region.file_offset().unwrap().start() + offset.0
    }

    /// Takes all pages away. Only the back-end under test may touch the memory afterwards.
    pub(crate) fn truncate(&self) {
        self.file.set_len(0).unwrap();
    }

    /// Room for `len` bytes of data, at a page's start.
    pub(crate) fn allocate(&self, len: usize) -> u64 {
        take(&self.next_high, len, HIGH + HIGH_SIZE)
    }

    /// Room for `len` bytes of a ring, of headers or the like, at a page's start.
    pub(crate) fn allocate_low(&self, len: usize) -> u64 {
        take(&self.next_low, len, LOW + LOW_SIZE)
    }

    pub(crate) fn write(&self, address: u64, data: &[u8]) {
        self.mmap.write_slice(data, GuestAddress(address)).unwrap();
    }

    pub(crate) fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.mmap.read_slice(&mut data, GuestAddress(address)).unwrap();
        data
    }

    /// A copy of all memory as it is.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let all = |start, size: u64| self.read(start, usize::try_from(size).unwrap());
        Snapshot([all(LOW, LOW_SIZE), all(HIGH, HIGH_SIZE)])
    }

    pub(crate) fn read_byte(&self, address: u64) -> u8 {
        self.mmap.read_obj(GuestAddress(address)).unwrap()
    }
}

/// A copy of guest memory.
pub(crate) struct Snapshot([Vec<u8>; 2]);

impl Snapshot {
    /// Addresses of the pages that are not what they were.
    pub(crate) fn changed_pages(&self, memory: &GuestMemory) -> BTreeSet<u64> {
        let Snapshot(now) = memory.snapshot();
        let regions = [LOW, HIGH].into_iter().zip(self.0.iter().zip(&now));
        let changed = regions.flat_map(|(start, (then, now))| {
            let pages = then.chunks(PAGE_LEN).zip(now.chunks(PAGE_LEN));
            let addresses = (start..).step_by(PAGE_LEN);
            addresses.zip(pages).filter(|(_, (then, now))| then != now).map(|(address, _)| address)
        });
        changed.collect()
    }
}

fn take(next: &AtomicU64, len: usize, end: u64) -> u64 {
    let len = (len as u64).next_multiple_of(PAGE_SIZE);
    let start = next.fetch_add(len, Relaxed);
    assert!(start + len <= end, "the guest has no more memory");
    start
}

const _: () = assert!(LOW + LOW_SIZE < GuestMemory::HOLE);
