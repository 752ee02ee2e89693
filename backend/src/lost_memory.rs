//! Guest memory that the front-end takes away under us, by truncating the file behind a region.
//!
//! The next access is a SIGBUS, which would end the process and with it the disks of other sessions to come. The handler
//! here puts empty memory in the place of the lost page, for mappings that were announced, and only for them: the guest
//! reads and writes zeros there, which is what its front-end asked for. A mapping of huge pages can be replaced by whole ones
//! alone.

#![expect(unsafe_code, reason = "a signal handler that maps memory")]

use std::fs::File;
use std::ptr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use libc::{c_int, c_void, siginfo_t};
use rustix::fs::fstatfs;
use vm_memory::MmapRegion;
use vm_memory::bitmap::Bitmap;
use vmm_sys_util::signal::register_signal_handler;

use crate::memory::MEMORY_SLOTS_MAX;

/// A table may be changed by a message while the one it replaces is still mapped; so may an in-flight region and a dirty log.
const SLOTS: usize = 2 * (MEMORY_SLOTS_MAX + 1);
const PAGE_SIZE: usize = 4096;

/// Start and end of a mapping; a free slot has start 0. A slot being filled has an end of 0, which no address is below.
#[derive(Debug)]
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    page_size: AtomicUsize,
}

impl Slot {
    const fn free() -> Self {
        Self { start: AtomicUsize::new(0), end: AtomicUsize::new(0), page_size: AtomicUsize::new(0) }
    }
}

// A handler must not lock or allocate, hence a table of fixed size.
static ANNOUNCED: [Slot; SLOTS] = [const { Slot::free() }; SLOTS];
static LOST_PAGES: AtomicU64 = AtomicU64::new(0);

/// Survives the loss of pages of announced mappings from now on.
pub fn catch() -> std::io::Result<()> {
    register_signal_handler(libc::SIGBUS, replace_page).map_err(Into::into)
}

/// How many pages were lost since this was last asked.
pub fn take_count() -> u64 {
    LOST_PAGES.swap(0, Ordering::Relaxed)
}

/// A mapping whose pages may get lost, for as long as this exists. To be dropped before the mapping.
#[derive(Debug)]
pub struct Announced(&'static Slot);

impl Announced {
    /// Announces all of `mapping`. `None`: too many are announced already.
    pub fn new<B: Bitmap>(mapping: &MmapRegion<B>) -> Option<Self> {
        let start = mapping.as_ptr().addr();
        let take =
            |slot: &&Slot| slot.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let slot = ANNOUNCED.iter().find(take)?;
        let page_size =
            mapping.file_offset().and_then(|offset| huge_page_size(offset.file())).unwrap_or(PAGE_SIZE);
        slot.page_size.store(page_size, Ordering::Relaxed);
        slot.end.store(start + mapping.size(), Ordering::Release);
        Some(Self(slot))
    }
}

/// The size of the pages of `file`, in bytes, if it is of huge pages.
pub(crate) fn huge_page_size(file: &File) -> Option<usize> {
    let stat = fstatfs(file).ok().filter(|stat| stat.f_type == libc::HUGETLBFS_MAGIC)?;
    usize::try_from(stat.f_bsize).ok()
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.0.end.store(0, Ordering::Release);
        self.0.start.store(0, Ordering::Release);
    }
}

/// The page of an announced mapping that `address` is in: its start and size.
fn announced_page(address: usize) -> Option<(usize, usize)> {
    let slot = ANNOUNCED.iter().find(|slot| {
        let (start, end) = (slot.start.load(Ordering::Acquire), slot.end.load(Ordering::Acquire));
        (start..end).contains(&address)
    })?;
    // a power of two, and the mapping begins with a page
    let size = slot.page_size.load(Ordering::Relaxed);
    Some((address & !(size - 1), size))
}

extern "C" fn replace_page(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler that is registered with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: SIGBUS sets the address.
    let address = unsafe { info.si_addr() }.addr();
    if let Some((page, size)) = announced_page(address) {
        // SAFETY: the page lies in a mapping that stays ours while it is announced; nothing else can be mapped there.
        let mapped = unsafe {
            libc::mmap(
                ptr::with_exposed_provenance_mut(page),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if mapped != libc::MAP_FAILED {
            LOST_PAGES.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    // A real bus error: end as if there were no handler, by the access that is repeated on return.
    // SAFETY: signal(2) may be called in a handler.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};
    use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

    use super::*;

    #[test]
    fn a_truncated_region_reads_as_zeros_and_can_be_written() {
        catch().unwrap();
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(16384).unwrap();
        let region: MmapRegion =
            MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap(), 0), 16384).unwrap();
        let announced = Announced::new(&region).unwrap();
        region.get_ref::<u64>(8192).unwrap().store(7);
        file.set_len(4096).unwrap();
        let lost = region.get_ref::<u64>(8192).unwrap();
        assert_eq!(lost.load(), 0);
        lost.store(9);
        assert_eq!(lost.load(), 9);
        assert!(take_count() >= 1);
        drop(announced);
    }

    #[test]
    fn only_announced_addresses_are_ours() {
        let region: MmapRegion = MmapRegion::new(3 * PAGE_SIZE).unwrap();
        let address = region.as_ptr().addr();
        assert_eq!(announced_page(address), None);
        let announced = Announced::new(&region).unwrap();
        assert_eq!(announced_page(address), Some((address, PAGE_SIZE)));
        let last = address + 2 * PAGE_SIZE;
        assert_eq!(announced_page(last + PAGE_SIZE - 1), Some((last, PAGE_SIZE)));
        assert_eq!(announced_page(last + PAGE_SIZE), None);
        drop(announced);
        assert_eq!(announced_page(address), None);
    }
}
