//! The dirty log of live migration: a bit for each page of guest memory that was written
//! (vhost-user, "Migration").
//!
//! Guest memory is written through slices of it, and a slice marks the pages that were written.
//! While there is no migration that costs one relaxed load: slices borrow the log, and nothing is
//! counted, locked or copied.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, compiler_fence};
use std::sync::{Arc, Once, PoisonError, RwLock};

use rustix::thread::{MembarrierCommand, membarrier};
use thiserror::Error;
use vhost::vhost_user::message::VhostUserLog;
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};
use vm_memory::{GuestAddress, MmapRegion, VolatileMemory};

use crate::guest::mapping::{self, MappingError};
use crate::guest::sigbus::{Loss, WatchedMapping};

/// `VHOST_LOG_PAGE`, in bytes.
const LOG_PAGE: u64 = 0x1000;

/// Why a log of the front-end's was refused.
#[derive(Debug, Error)]
pub enum DirtyLogError {
    /// The log has no bits for a part of guest memory.
    #[error("a dirty log of {size} bytes, but guest memory up to {end:#x} needs {needed}")]
    TooSmall {
        /// Length of the log, in bytes.
        size: u64,
        /// The first address past guest memory.
        end: u64,
        /// The length that it needs, in bytes.
        needed: u64,
    },
    /// The file ends before the log does, or cannot be mapped.
    #[error("a dirty log that cannot be mapped")]
    Mapping(#[from] MappingError),
}

/// The dirty log of a session, shared by its memory regions, and so by all code that writes to
/// them.
#[derive(Debug, Default)]
pub struct DirtyLog {
    is_on: AtomicBool,
    // locked for reading by each mark, so that no mark is made in a log that was replaced
    pages: RwLock<Option<LogPages>>,
}

/// The front-end's bitmap.
#[derive(Debug)]
struct LogPages {
    mapping: WatchedMapping<MmapRegion<()>>,
    too_small_logged: Once,
}

impl DirtyLog {
    /// Takes the log that `VHOST_USER_SET_LOG_BASE` hands over, in the place of the last one. Guest
    /// memory ends at `memory_end`.
    pub fn set_base(&self, log: &VhostUserLog, file: File, memory_end: u64) -> Result<(), DirtyLogError> {
        let VhostUserLog { mmap_size: size, mmap_offset: offset } = *log;
        refuse_small(size, memory_end)?;
        let pages = LogPages::map(size, offset, file)?;
        *self.pages.write().unwrap_or_else(PoisonError::into_inner) = Some(pages);
        Ok(())
    }

    /// Fails when writes are marked and the log has no bits for a part of memory up to
    /// `memory_end`.
    pub fn check_covers(&self, memory_end: u64) -> Result<(), DirtyLogError> {
        if self.is_on() { self.covers(memory_end) } else { Ok(()) }
    }

    /// Fails when there is a log, on or off, that has no bits for a part of memory up to
    /// `memory_end`.
    pub fn covers(&self, memory_end: u64) -> Result<(), DirtyLogError> {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        pages.as_ref().map_or(Ok(()), |pages| refuse_small(pages.mapping.size() as u64, memory_end))
    }

    /// Starts or ends logging (`VHOST_F_LOG_ALL`). When this returns, every write that was not
    /// marked was made before, and is visible.
    ///
    /// Fails, with nothing changed, where the kernel has no call to make sure of that.
    pub fn switch(&self, on: bool) -> io::Result<()> {
        if on {
            membarrier(MembarrierCommand::RegisterPrivateExpedited)?;
        }
        self.is_on.store(on, Ordering::SeqCst);
        if on {
            // A worker writes, and then looks whether the log is on. Its processor may do that in
            // the other order. After this call each worker has done both, or will see that the log
            // is on.
            membarrier(MembarrierCommand::PrivateExpedited)?;
        }
        Ok(())
    }

    /// Whether there is a log to mark in.
    pub fn has_base(&self) -> bool {
        self.pages.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Why the front-end's bitmap is lost, if it is. Then its marks are lost too.
    pub fn loss(&self) -> Option<Loss> {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        pages.as_ref().and_then(|pages| pages.mapping.loss())
    }

    /// Whether writes are marked.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Marks the pages of `len` bytes from `start`, which were written before.
    #[inline]
    fn mark(&self, start: u64, len: usize) {
        // see `switch`
        compiler_fence(Ordering::SeqCst);
        if self.is_on() {
            self.set_bits(start, len as u64);
        }
    }

    #[cold]
    fn set_bits(&self, start: u64, len: u64) {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        if let (Some(pages), Some(last)) = (&*pages, len.checked_sub(1)) {
            for page in start / LOG_PAGE..=start.saturating_add(last) / LOG_PAGE {
                pages.set_bit(page);
            }
        }
    }

    fn bit(&self, address: u64) -> bool {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let bits =
            pages.as_ref().and_then(|pages| pages.bits(address / LOG_PAGE)?.load(Ordering::Relaxed).into());
        bits.is_some_and(|bits| bits & bit_of(address / LOG_PAGE) != 0)
    }
}

impl LogPages {
    fn map(size: u64, offset: u64, file: File) -> Result<Self, DirtyLogError> {
        Ok(Self { mapping: mapping::map(file, offset, size, ())?, too_small_logged: Once::new() })
    }

    fn set_bit(&self, page: u64) {
        match self.bits(page) {
            // a release: a reader that sees the bit sees the write
            Some(bits) => drop(bits.fetch_or(bit_of(page), Ordering::Release)),
            None => self.too_small_logged.call_once(|| {
                tracing::error!("the dirty log has no bit for guest address {:#x}", page * LOG_PAGE);
            }),
        }
    }

    fn bits(&self, page: u64) -> Option<&AtomicU8> {
        let byte = usize::try_from(page / 8).ok()?;
        self.mapping.get_atomic_ref(byte).ok()
    }
}

fn bit_of(page: u64) -> u8 {
    1 << (page % 8)
}

fn refuse_small(size: u64, end: u64) -> Result<(), DirtyLogError> {
    let needed = end.div_ceil(LOG_PAGE).div_ceil(8);
    if size >= needed { Ok(()) } else { Err(DirtyLogError::TooSmall { size, end, needed }) }
}

/// The part of the log for one memory region.
///
/// The default is for memory that no front-end has shared. Its log is never on.
#[derive(Debug, Clone, Default)]
pub struct RegionLog {
    log: Arc<DirtyLog>,
    start: u64,
}

impl RegionLog {
    /// The part for the region at `start`.
    pub fn new(log: Arc<DirtyLog>, start: GuestAddress) -> Self {
        Self { log, start: start.0 }
    }

    /// The whole log.
    pub fn dirty_log(&self) -> &DirtyLog {
        &self.log
    }
}

/// The part of the log for one slice of memory.
#[derive(Debug, Clone, Copy)]
pub struct LogSlice<'a> {
    log: &'a DirtyLog,
    start: u64,
}

impl<'a> WithBitmapSlice<'a> for RegionLog {
    type S = LogSlice<'a>;
}

impl Bitmap for RegionLog {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.slice_at(0).mark_dirty(offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.slice_at(0).dirty_at(offset)
    }

    #[inline]
    fn slice_at(&self, offset: usize) -> LogSlice<'_> {
        LogSlice { log: &self.log, start: self.start + offset as u64 }
    }
}

impl NewBitmap for RegionLog {
    fn with_len(_len: usize) -> Self {
        Self::default()
    }
}

impl<'a> WithBitmapSlice<'_> for LogSlice<'a> {
    type S = LogSlice<'a>;
}

impl BitmapSlice for LogSlice<'_> {}

impl Bitmap for LogSlice<'_> {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.log.mark(self.start + offset as u64, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.log.bit(self.start + offset as u64)
    }

    #[inline]
    fn slice_at(&self, offset: usize) -> Self {
        Self { log: self.log, start: self.start + offset as u64 }
    }
}

/// Where writes to a used ring are marked besides its own place: the front-end may name any
/// address, even one that is not in guest memory.
#[derive(Debug)]
pub struct UsedRingLog {
    log: Arc<DirtyLog>,
    start: u64,
    len: usize,
}

impl UsedRingLog {
    /// For a ring of `len` bytes that is logged as if it were at `start`.
    pub fn new(log: Arc<DirtyLog>, start: u64, len: usize) -> Self {
        Self { log, start, len }
    }

    /// Marks all of it.
    pub fn mark(&self) {
        self.log.mark(self.start, self.len);
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, memfd_create};
    use vm_memory::mmap::MmapRegionBuilder;
    use vm_memory::{Bytes, GuestMemoryMmap, GuestRegionMmap};

    use super::*;

    fn file(len: u64) -> File {
        let file = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(len).unwrap();
        file
    }

    fn base(size: u64, offset: u64) -> VhostUserLog {
        VhostUserLog { mmap_size: size, mmap_offset: offset }
    }

    fn bytes(file: &File, len: usize) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    /// Two pages of memory at page 13.
    fn memory(log: &Arc<DirtyLog>) -> GuestMemoryMmap<RegionLog> {
        let start = GuestAddress(13 * LOG_PAGE);
        let mapping = MmapRegionBuilder::new_with_bitmap(0x2000, RegionLog::new(log.clone(), start));
        let mapping = mapping
            .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE);
        let region = GuestRegionMmap::new(mapping.build().unwrap(), start).unwrap();
        GuestMemoryMmap::from_regions(vec![region]).unwrap()
    }

    #[test]
    fn bits_are_those_of_guest_addresses_while_it_is_on() {
        let log = Arc::new(DirtyLog::default());
        let memory = memory(&log);
        let shared = file(4096);
        log.set_base(&base(4096, 0), shared.try_clone().unwrap(), 15 * LOG_PAGE).unwrap();
        memory.write_obj(1u8, GuestAddress(13 * LOG_PAGE)).unwrap();
        assert_eq!(bytes(&shared, 2), [0, 0]);
        log.switch(true).unwrap();
        memory.read_obj::<u64>(GuestAddress(13 * LOG_PAGE)).unwrap();
        assert_eq!(bytes(&shared, 2), [0, 0]);
        memory.write_obj(1u8, GuestAddress(13 * LOG_PAGE)).unwrap();
        assert_eq!(bytes(&shared, 2), [0, 1 << 5]);
        // over the border of two pages
        memory.write_slice(&[1, 2], GuestAddress(14 * LOG_PAGE - 1)).unwrap();
        assert_eq!(bytes(&shared, 2), [0, 3 << 5]);
        log.switch(false).unwrap();
        shared.set_len(0).unwrap();
        shared.set_len(4096).unwrap();
        memory.write_obj(1u8, GuestAddress(13 * LOG_PAGE)).unwrap();
        assert_eq!(bytes(&shared, 2), [0, 0]);
    }

    #[test]
    fn invalid_logs_are_refused() {
        let log = DirtyLog::default();
        let set = |size, offset, file| log.set_base(&base(size, offset), file, 8 * 8 * LOG_PAGE);
        assert!(matches!(
            set(8, 0, file(4)),
            Err(DirtyLogError::Mapping(MappingError::PastEndOfFile { .. }))
        ));
        assert!(matches!(
            set(u64::MAX, 1, file(4096)),
            Err(DirtyLogError::Mapping(MappingError::PastEndOfFile { .. }))
        ));
        assert!(matches!(
            set(u64::MAX, 0, file(4096)),
            Err(DirtyLogError::Mapping(MappingError::PastEndOfFile { .. }))
        ));
        assert!(matches!(
            set(8, u64::MAX - 7, file(4096)),
            Err(DirtyLogError::Mapping(MappingError::PastEndOfFile { .. }))
        ));
        assert!(matches!(set(0, 0, file(4096)), Err(DirtyLogError::TooSmall { needed: 8, .. })));
        assert!(matches!(set(7, 0, file(4096)), Err(DirtyLogError::TooSmall { .. })));
        // a mapping starts at a page
        assert!(matches!(set(8, 8, file(4096)), Err(DirtyLogError::Mapping(MappingError::Map(_)))));
        assert!(matches!(set(1 << 62, 0, file(1 << 62)), Err(DirtyLogError::Mapping(MappingError::Map(_)))));
        set(8, 0, file(4096)).unwrap();
    }

    #[test]
    fn marks_in_a_lost_or_small_log_are_dropped() {
        crate::guest::sigbus::catch().unwrap();
        let log = Arc::new(DirtyLog::default());
        let memory = memory(&log);
        let shared = file(4096);
        log.set_base(&base(4096, 0), shared.try_clone().unwrap(), 0).unwrap();
        log.switch(true).unwrap();
        shared.set_len(0).unwrap();
        memory.write_obj(1u8, GuestAddress(13 * LOG_PAGE)).unwrap();
        log.set_base(&base(1, 0), file(1), 0).unwrap();
        memory.write_obj(1u8, GuestAddress(13 * LOG_PAGE)).unwrap();
        assert!(log.check_covers(15 * LOG_PAGE).is_err());
        log.mark(u64::MAX, usize::MAX);
    }
}
