//! Mappings that are lost: the file was truncated while it was mapped, or its file system has no
//! page left for it.
//!
//! An access to such a page raises SIGBUS, whose default action would end the process. For a
//! mapping that is watched the handler marks the whole mapping as lost, notes why, and maps private
//! memory over all of it, so that the access ends. Code that copied from or to the mapping finds
//! the mark afterwards and fails the request, and the session ends. The private memory is only
//! there so that threads which are in the middle of a copy can finish it.
//!
//! A hardware memory error and a SIGBUS that another process sent end the process, as by default.

#![expect(unsafe_code, reason = "a signal handler that maps memory")]

mod loss;
mod slot;

use std::fs::File;
use std::ops::Deref;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use libc::{c_int, c_void, siginfo_t};
use rustix::fs::fstatfs;
use vm_memory::bitmap::Bitmap;
use vm_memory::{FileOffset, MmapRegion};
use vmm_sys_util::signal::register_signal_handler;

pub use self::loss::Loss;
use self::slot::{GOOD, Mapped, REPLACED, REPLACING, Slot};
use crate::guest::MEMORY_SLOTS_MAX;

/// A table may be changed by a message while the one that it replaces is still mapped. The same is
/// true of an in-flight region and of a dirty log.
const SLOTS: usize = 2 * (MEMORY_SLOTS_MAX + 1);
/// The handler tries to allocate this much to find out why a page is lost.
const PAGE_SIZE: u64 = 4096;

// A handler must not lock or allocate, hence a table of fixed size.
static WATCHED: [Slot; SLOTS] = [const { Slot::free() }; SLOTS];
/// How many mappings were lost since the process began.
static LOSSES: AtomicU64 = AtomicU64::new(0);

/// Lets the process survive the loss of watched mappings from now on.
pub fn catch() -> std::io::Result<()> {
    register_signal_handler(libc::SIGBUS, handle).map_err(Into::into)
}

/// How many mappings were lost since the process began. To be read after a copy: if the number is
/// the same as before it, no byte was copied from or to private memory.
#[inline]
pub fn losses() -> u64 {
    // not before the loads of the copy
    fence(Ordering::Acquire);
    LOSSES.load(Ordering::Relaxed)
}

/// Whether `address` lies in a mapping that is lost.
pub fn is_lost(address: usize) -> bool {
    let slot = find(address);
    slot.is_some_and(|(slot, _)| slot.state.load(Ordering::Acquire) != GOOD)
}

/// A slot of the handler's table, as long as a mapping has it.
#[derive(Debug)]
struct Registration(&'static Slot);

impl Registration {
    /// Enters all of `mapping`, which is of a file. `None`: the table is full.
    ///
    /// # Safety
    /// The mapping must live at least as long as the registration: the handler maps other memory in
    /// its place.
    unsafe fn new<B: Bitmap>(mapping: &MmapRegion<B>) -> Option<Self> {
        let slot = WATCHED.iter().find(|slot| slot.take())?;
        let start = mapping.as_ptr().addr();
        slot.start.store(start, Ordering::Relaxed);
        slot.end.store(start + mapping.size(), Ordering::Relaxed);
        let file = mapping.file_offset();
        slot.file.store(file.map_or(-1, |file| file.file().as_raw_fd()), Ordering::Relaxed);
        slot.offset.store(file.map_or(0, FileOffset::start), Ordering::Relaxed);
        slot.len.store(u64::MAX, Ordering::Relaxed);
        slot.errno.store(0, Ordering::Relaxed);
        slot.state.store(GOOD, Ordering::Relaxed);
        slot.publish();
        Some(Self(slot))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // only the owner changes a slot that is taken
        self.0.version.fetch_add(1, Ordering::AcqRel);
        self.0.start.store(0, Ordering::Relaxed);
        self.0.end.store(0, Ordering::Relaxed);
        self.0.publish();
    }
}

/// A mapping of a file whose pages may be lost: an access to a lost page ends, and is noted here.
///
/// `M` is the mapping itself, or an `Arc` of it. It is never given out by value, so it lives at
/// least as long as its registration with the handler.
#[derive(Debug)]
pub struct WatchedMapping<M> {
    // dropped first: the handler must not replace what is no longer mapped
    registration: Registration,
    mapping: M,
}

impl<B: Bitmap> WatchedMapping<MmapRegion<B>> {
    /// Watches `mapping`. `None`: as many mappings are watched as can be.
    pub fn new(mapping: MmapRegion<B>) -> Option<Self> {
        // SAFETY: both fields are private, the registration is dropped first, and `mapping` is
        // given out by reference only, so it lives longer.
        let registration = unsafe { Registration::new(&mapping) }?;
        Some(Self { registration, mapping })
    }

    /// The same mapping, for users that share it.
    pub fn into_shared(self) -> WatchedMapping<Arc<MmapRegion<B>>> {
        let Self { registration, mapping } = self;
        WatchedMapping { registration, mapping: Arc::new(mapping) }
    }
}

impl<M> WatchedMapping<M> {
    /// Why the mapping was lost, if it was.
    pub fn loss(&self) -> Option<Loss> {
        self.registration.0.loss()
    }
}

impl<M> Deref for WatchedMapping<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.mapping
    }
}

/// The size of the pages of `file`, in bytes, if it is of huge pages.
pub(crate) fn huge_page_size(file: &File) -> Option<usize> {
    let stat = fstatfs(file).ok().filter(|stat| stat.f_type == libc::HUGETLBFS_MAGIC)?;
    usize::try_from(stat.f_bsize).ok()
}

/// The watched mapping that `address` is in.
fn find(address: usize) -> Option<(&'static Slot, Mapped)> {
    WATCHED.iter().find_map(|slot| {
        let mapped = slot.read()?;
        (mapped.start..mapped.end).contains(&address).then_some((slot, mapped))
    })
}

extern "C" fn handle(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: the kernel passes a handler that is registered with SA_SIGINFO the address of a
    // siginfo on its stack, which lives until the handler returns.
    let info = unsafe { &*info };
    // any other code is of a hardware memory error, or of a signal that a process sent
    if info.si_code == libc::BUS_ADRERR {
        // SAFETY: the kernel has set `si_addr`, and no other field of the union, for this code.
        let address = unsafe { info.si_addr() }.addr();
        if let Some((slot, mapped)) = find(address) {
            // SAFETY: `find` has read both bounds from one registration, whose mapping the
            // interrupted thread is accessing, so it stays mapped until this handler returns.
            if unsafe { replace(slot, mapped, address) } {
                return;
            }
        }
    }
    // SAFETY: signal(2) takes no pointer but the action, and may be called in a handler. The signal
    // is blocked while its handler runs, so it is delivered, to its default action, when the
    // handler returns.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
    }
    // SAFETY: raise(3) takes no pointers and may be called in a handler.
    unsafe {
        libc::raise(signal);
    }
}

/// Marks the mapping of `slot` as lost at `address` and puts private memory in its place. False
/// when the kernel has none.
///
/// # Safety
/// `mapped` is one whole mapping of a [`WatchedMapping`], which stays mapped during the call.
unsafe fn replace(slot: &Slot, mapped: Mapped, address: usize) -> bool {
    if slot.state.compare_exchange(GOOD, REPLACING, Ordering::AcqRel, Ordering::Acquire).is_err() {
        // another thread replaces it, or has done so since this one's access: that is repeated
        return true;
    }
    probe(slot, mapped, address);
    // before the memory: a thread that reads the private memory finds the number changed
    LOSSES.fetch_add(1, Ordering::SeqCst);
    // SAFETY: the addresses `start..end` are one whole mapping of ours, as the caller promises, and
    // no other owner's memory. Private memory in the place of the file's pages keeps every pointer
    // into the mapping valid.
    let memory = unsafe {
        libc::mmap(
            ptr::with_exposed_provenance_mut(mapped.start),
            mapped.end - mapped.start,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    slot.state.store(REPLACED, Ordering::Release);
    memory != libc::MAP_FAILED
}

/// Finds out why the page at `address` is lost, by asking for it once more.
fn probe(slot: &Slot, mapped: Mapped, address: usize) {
    let at = mapped.offset + (address - mapped.start) as u64;
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat may be called in a handler. `stat` has the size of the struct and lives past
    // the call, which fills in all of it when it succeeds.
    if unsafe { libc::fstat(mapped.file, stat.as_mut_ptr()) } == 0 {
        // SAFETY: fstat succeeded, so all of `stat` is initialised.
        let len = unsafe { stat.assume_init() }.st_size.cast_unsigned();
        if len <= at {
            return slot.len.store(len, Ordering::Relaxed);
        }
    }
    let page = (at - at % PAGE_SIZE).cast_signed();
    // SAFETY: fallocate takes no pointers and may be called in a handler. It changes no data: it
    // takes a page for a hole of the file.
    let asked =
        unsafe { libc::fallocate(mapped.file, libc::FALLOC_FL_KEEP_SIZE, page, PAGE_SIZE.cast_signed()) };
    if asked != 0 {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        slot.errno.store(errno, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use rustix::fs::{MemfdFlags, memfd_create};
    use vm_memory::VolatileMemory;

    use super::*;

    fn memfd(len: u64) -> File {
        let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(len).unwrap();
        file
    }

    fn map(file: &File, len: usize) -> WatchedMapping<MmapRegion> {
        let region = MmapRegion::from_file(FileOffset::new(file.try_clone().unwrap(), 0), len).unwrap();
        WatchedMapping::new(region).unwrap()
    }

    #[test]
    fn a_truncated_mapping_is_marked_and_the_access_ends() {
        catch().unwrap();
        let file = memfd(16384);
        let region = map(&file, 16384);
        let other = map(&memfd(4096), 4096);
        region.get_ref::<u64>(8192).unwrap().store(7);
        let before = losses();
        file.set_len(4096).unwrap();
        assert_eq!(region.loss(), None);
        assert_ne!(region.get_ref::<u64>(8192).unwrap().load(), 7);
        assert!(losses() > before);
        assert_eq!(region.loss(), Some(Loss::Truncated { len: 4096 }));
        // not this page alone: the mapping is given up
        assert!(is_lost(region.as_ptr().addr()));
        assert!(!is_lost(other.as_ptr().addr()));
    }

    /// A mapping for each lost page would reach the limit of mappings, and end the process.
    #[test]
    fn a_lost_mapping_stays_one_mapping() {
        const LEN: usize = 64 << 20;
        catch().unwrap();
        let file = memfd(LEN as u64);
        let region = map(&file, LEN);
        file.set_len(0).unwrap();
        for offset in (0..LEN).step_by(8192) {
            region.get_ref::<u8>(offset).unwrap().store(1);
        }
        assert_eq!(region.loss(), Some(Loss::Truncated { len: 0 }));
        let (start, end) = (region.as_ptr().addr() as u64, region.as_ptr().addr() as u64 + LEN as u64);
        let maps = procfs::process::Process::myself().unwrap().maps().unwrap();
        let within = maps.iter().filter(|map| map.address.0 < end && map.address.1 > start).count();
        assert_eq!(within, 1);
    }

    #[test]
    fn a_slot_is_found_by_its_own_addresses_alone() {
        let region = map(&memfd(12288), 12288);
        let start = region.as_ptr().addr();
        let found = |address| find(address).map(|(_, mapped)| (mapped.start, mapped.end));
        assert_eq!(found(start), Some((start, start + 12288)));
        assert_eq!(found(start + 12287), Some((start, start + 12288)));
        assert_eq!(found(start + 12288), None);
        drop(region);
        assert_eq!(found(start), None);
    }

    /// For the test below, in a process of its own: raises SIGBUS as the environment says, and
    /// should not survive.
    #[test]
    fn dies_of_a_signal() {
        let Ok(how) = std::env::var("STABLEBLK_TEST_SIGBUS") else {
            return;
        };
        catch().unwrap();
        if how == "sent" {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGBUS).unwrap();
        } else {
            let file = memfd(8192);
            let region: MmapRegion = MmapRegion::from_file(FileOffset::new(file, 0), 8192).unwrap();
            region.file_offset().unwrap().file().set_len(0).unwrap();
            region.get_ref::<u8>(0).unwrap().load();
        }
        std::process::exit(0);
    }

    #[test]
    fn a_sent_signal_and_memory_that_is_not_watched_end_the_process() {
        for how in ["sent", "not watched"] {
            let mut test = Command::new(std::env::current_exe().unwrap());
            test.args(["--exact", "guest::sigbus::tests::dies_of_a_signal"])
                .env("STABLEBLK_TEST_SIGBUS", how);
            let output = test.output().unwrap();
            assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{how}: {output:?}");
        }
    }
}
