//! Bounce folios: the stable, page-aligned memory that every protected transfer goes through.
//!
//! A [`FolioPool`] reserves its [`Arena`] when a worker starts and never grows. It hands out
//! naturally aligned power-of-two [`BounceFolio`]s of the arena, the largest that fits first and
//! smaller ones when memory is scattered, as the kernel's `folio_alloc_greedy` does. When none is
//! free the worker stops popping: that is back-pressure, not failure.
//!
//! Each folio carries the metadata (PI tuples) of its data. Metadata lies in a second mapping, at
//! the place that corresponds to the data's, so a folio that has room for data has room for its
//! tuples.

#![expect(
    unsafe_code,
    reason = "folios are exclusive parts of one mapping, which slices of a Vec cannot express"
)]

use std::ptr::NonNull;
use std::rc::Rc;
use std::{io, slice};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// Smallest folio and the unit of allocation, in bytes.
pub const FOLIO_SIZE_MIN: usize = 4096;
/// Largest folio, in bytes.
pub const FOLIO_SIZE_MAX: usize = 1 << 20;
/// Bounce memory of one worker, in bytes: eight requests of 1 MiB, or 2048 of 4 KiB, in flight.
pub const ARENA_SIZE: usize = 8 << 20;

const PAGES: usize = ARENA_SIZE / FOLIO_SIZE_MIN;
const WORDS: usize = PAGES / 64;
/// Mappings start at a multiple of this, so that transparent huge pages can back them.
const HUGE_PAGE_SIZE: usize = 2 << 20;

/// An anonymous mapping that starts at a multiple of [`HUGE_PAGE_SIZE`].
#[derive(Debug)]
struct Mapping {
    mapped: NonNull<u8>,
    mapped_len: usize,
    start: NonNull<u8>,
}

impl Mapping {
    fn new(len: usize) -> io::Result<Self> {
        let mapped_len = len + HUGE_PAGE_SIZE;
        // SAFETY: the kernel chooses the addresses of `mapped_len` bytes that nothing else uses.
        // They stay mapped until `drop`.
        let mapped = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                mapped_len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?
        .cast::<u8>();
        let mapped = NonNull::new(mapped).ok_or(io::ErrorKind::OutOfMemory)?;
        let padding = mapped.as_ptr().align_offset(HUGE_PAGE_SIZE);
        // SAFETY: `padding` is less than HUGE_PAGE_SIZE, so the result and the `len` bytes after it
        // lie within the `mapped_len` bytes of the mapping just made.
        let start = unsafe { mapped.add(padding) };
        // SAFETY: the `len` bytes from `start` lie in the mapping just made, and the advice changes
        // no contents. It is a hint: without huge pages small ones serve.
        let _ = unsafe { madvise(start.as_ptr().cast(), len, Advice::LinuxHugepage) };
        Ok(Self { mapped, mapped_len, start })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `new` mapped these `mapped_len` bytes. Each folio that points into them holds the
        // arena that owns this mapping, so no folio is left, and no slice of one.
        let _ = unsafe { munmap(self.mapped.as_ptr().cast(), self.mapped_len) };
    }
}

/// The bounce memory of one worker: [`ARENA_SIZE`] bytes of data and the metadata that belongs to
/// them. Each belongs to one [`FolioPool`], which alone makes folios of it.
#[derive(Debug)]
pub struct Arena {
    data: Mapping,
    metadata: Mapping,
    metadata_per_page: usize,
}

impl Arena {
    fn reserve(metadata_per_page: usize) -> io::Result<Self> {
        let data = Mapping::new(ARENA_SIZE)?;
        let metadata = Mapping::new((PAGES * metadata_per_page).max(1))?;
        // Pages are faulted in now: on the path a page fault would stall a request, and a lack of
        // memory would kill the process.
        //
        // SAFETY: the ARENA_SIZE bytes from `start` lie in the mapping just made, which nothing
        // refers to yet; populating it leaves its zeros as they are.
        unsafe { madvise(data.start.as_ptr().cast(), ARENA_SIZE, Advice::LinuxPopulateWrite) }?;
        Ok(Self { data, metadata, metadata_per_page })
    }

    /// The data part as one vector, to register as fixed buffer 0.
    pub fn as_iovec(&self) -> libc::iovec {
        libc::iovec { iov_base: self.data.start.as_ptr().cast(), iov_len: ARENA_SIZE }
    }
}

/// A stable buffer: `len` bytes of data and their metadata, owned by the holder of this value.
///
/// It moves into the in-flight table at submit, so no safe code can reach it while the device
/// works.
#[derive(Debug)]
pub struct BounceFolio {
    arena: Rc<Arena>,
    first_page: usize,
    len: usize,
}

impl BounceFolio {
    /// Bytes in use; never none.
    #[expect(clippy::len_without_is_empty, reason = "a folio is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its pages, of which the last may be unused.
    fn pages(&self) -> usize {
        folio_size(self.len) / FOLIO_SIZE_MIN
    }

    /// Address of the data, for the submission queue entry. Stable for the folio's life, also when
    /// it moves.
    pub fn as_ptr(&self) -> *mut u8 {
        // SAFETY: `first_page` is below PAGES, so the result lies within the ARENA_SIZE bytes of
        // the data mapping, which the arena keeps for as long as this folio holds it.
        unsafe { self.arena.data.start.add(self.first_page * FOLIO_SIZE_MIN) }.as_ptr()
    }

    /// The data.
    pub fn data(&self) -> &[u8] {
        // SAFETY: the `len` bytes lie in the folio's pages, which the arena's one pool gave to this
        // folio alone. They were zeros first, so they are initialised; the arena, which the folio
        // holds, keeps them mapped. `&self` excludes a mutable view for as long as the slice lives.
        unsafe { slice::from_raw_parts(self.as_ptr(), self.len) }
    }

    /// The metadata of the whole folio.
    pub fn metadata(&self) -> &[u8] {
        // SAFETY: as for `data`: `metadata_per_page` bytes for each of the folio's pages belong to
        // this folio alone.
        unsafe { slice::from_raw_parts(self.metadata_ptr(), self.pages() * self.arena.metadata_per_page) }
    }

    /// Data and metadata, to fill both.
    pub fn parts_mut(&mut self) -> (&mut [u8], &mut [u8]) {
        let (data, metadata) = (self.as_ptr(), self.metadata_ptr());
        let metadata_len = self.pages() * self.arena.metadata_per_page;
        // SAFETY: the same `len` bytes as in `data`, and `&mut self` excludes every other view of
        // them.
        let data = unsafe { slice::from_raw_parts_mut(data, self.len) };
        // SAFETY: the same bytes as in `metadata`. They lie in another mapping than the data, so
        // the two slices do not overlap.
        let metadata = unsafe { slice::from_raw_parts_mut(metadata, metadata_len) };
        (data, metadata)
    }

    /// Data and metadata, to check one against the other.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        (self.data(), self.metadata())
    }

    /// Address of the metadata, as [`Self::as_ptr`].
    pub fn metadata_ptr(&self) -> *mut u8 {
        // SAFETY: the metadata mapping has `metadata_per_page` bytes for each of the PAGES pages,
        // and `first_page` is below PAGES. The arena keeps it for as long as this folio holds it.
        unsafe { self.arena.metadata.start.add(self.first_page * self.arena.metadata_per_page) }.as_ptr()
    }
}

/// The free folios of one arena, which the pool makes and owns.
///
/// Each page has one bit. A folio of 2^k pages is a run of 2^k free bits at a multiple of 2^k: no
/// lists to keep, no splitting and merging, and the lowest address is taken first, which keeps the
/// upper part whole for large requests.
#[derive(Debug)]
pub struct FolioPool {
    arena: Rc<Arena>,
    free: [u64; WORDS],
    /// No word below this one has a free page.
    first_word: usize,
}

impl FolioPool {
    /// Reserves an arena and makes a pool of all its pages. Its folios carry `metadata_per_page`
    /// bytes of metadata for each 4096 bytes of data.
    pub fn reserve(metadata_per_page: usize) -> io::Result<Self> {
        let arena = Rc::new(Arena::reserve(metadata_per_page)?);
        Ok(Self { arena, free: [u64::MAX; WORDS], first_word: 0 })
    }

    /// The memory of its folios, to register with a device's queue.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Takes a folio for up to `len` bytes, but at least `len_min`, both counted from 1. The
    /// folio's `len` is `len` or, where only smaller folios are free, the whole of the largest of
    /// those. `None`: not even `len_min` is free.
    pub fn take(&mut self, len: usize, len_min: usize) -> Option<BounceFolio> {
        let smallest = folio_size(len_min);
        let mut size = folio_size(len);
        loop {
            if let Some(first_page) = self.take_pages(size / FOLIO_SIZE_MIN) {
                return Some(BounceFolio { arena: self.arena.clone(), first_page, len: len.min(size) });
            }
            if size <= smallest {
                return None;
            }
            size /= 2;
        }
    }

    /// Takes a folio back.
    ///
    /// # Panics
    /// Panics when the folio is of another pool: its pages would be given out twice.
    #[expect(clippy::needless_pass_by_value, reason = "by value, so that no code uses the folio afterwards")]
    pub fn put(&mut self, folio: BounceFolio) {
        assert!(Rc::ptr_eq(&folio.arena, &self.arena), "a folio of another pool");
        let (first_page, pages) = (folio.first_page, folio.pages());
        let word = first_page / 64;
        if pages >= 64 {
            self.free[word..word + pages / 64].fill(u64::MAX);
        } else {
            self.free[word] |= run(pages) << (first_page % 64);
        }
        self.first_word = self.first_word.min(word);
    }

    /// Whether every folio is back.
    pub fn is_whole(&self) -> bool {
        self.free.iter().all(|&word| word == u64::MAX)
    }

    fn take_pages(&mut self, pages: usize) -> Option<usize> {
        while self.first_word < WORDS && self.free[self.first_word] == 0 {
            self.first_word += 1;
        }
        if pages >= 64 {
            let words = pages / 64;
            let start = self.first_word.next_multiple_of(words);
            let word = (start..WORDS)
                .step_by(words)
                .find(|&word| self.free[word..word + words].iter().all(|&free| free == u64::MAX))?;
            self.free[word..word + words].fill(0);
            return Some(word * 64);
        }
        (self.first_word..WORDS).find_map(|word| {
            let bit = aligned_runs(self.free[word], pages).trailing_zeros() as usize;
            (bit < 64).then(|| {
                self.free[word] &= !(run(pages) << bit);
                word * 64 + bit
            })
        })
    }
}

/// The folio size that holds `len` bytes, capped at [`FOLIO_SIZE_MAX`].
fn folio_size(len: usize) -> usize {
    len.clamp(FOLIO_SIZE_MIN, FOLIO_SIZE_MAX).next_power_of_two()
}

/// `pages` (below 64) ones.
fn run(pages: usize) -> u64 {
    (1 << pages) - 1
}

/// The bits at which a run of `pages` (a power of two below 64) ones starts that is aligned to its
/// length.
fn aligned_runs(free: u64, pages: usize) -> u64 {
    let mut starts = free;
    let mut covered = 1;
    while covered < pages {
        // a run of 2n starts where a run of n starts and another follows; bits that start no n drop
        // out
        starts &= starts >> covered;
        covered *= 2;
    }
    // all ones divided by `pages` ones has a one at every multiple of `pages`
    starts & (u64::MAX / run(pages))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool() -> FolioPool {
        FolioPool::reserve(16).unwrap()
    }

    #[test]
    fn a_request_larger_than_a_folio_gets_the_largest() {
        assert_eq!(pool().take(32 << 20, FOLIO_SIZE_MIN).unwrap().len(), FOLIO_SIZE_MAX);
    }

    #[test]
    fn the_length_asked_for_is_kept_inside_a_larger_folio() {
        let folio = pool().take(12288, FOLIO_SIZE_MIN).unwrap();
        assert_eq!((folio.len(), folio.pages()), (12288, 4));
        assert_eq!(folio.metadata().len(), 64);
    }

    #[test]
    fn scattered_memory_gives_smaller_folios_and_then_none() {
        let mut pool = pool();
        let all: Vec<_> = std::iter::from_fn(|| pool.take(FOLIO_SIZE_MIN, FOLIO_SIZE_MIN)).collect();
        assert_eq!(all.len(), PAGES);
        for (index, folio) in all.into_iter().enumerate() {
            if index % 4 < 2 {
                pool.put(folio);
            } else {
                std::mem::forget(folio);
            }
        }
        assert_eq!(pool.take(FOLIO_SIZE_MAX, FOLIO_SIZE_MIN).unwrap().len(), 8192);
        assert!(pool.take(FOLIO_SIZE_MAX, 16384).is_none());
    }

    #[test]
    #[should_panic(expected = "another pool")]
    fn a_folio_of_another_pool_is_refused() {
        let folio = pool().take(4096, 4096).unwrap();
        pool().put(folio);
    }

    #[test]
    fn data_and_metadata_of_neighbours_do_not_touch() {
        let mut pool = pool();
        let mut folios: Vec<_> = (0..3).map(|_| pool.take(8192, 8192).unwrap()).collect();
        for (index, folio) in folios.iter_mut().enumerate() {
            let value = u8::try_from(index + 1).unwrap();
            let (data, metadata) = folio.parts_mut();
            data.fill(value);
            metadata.fill(value);
        }
        for (index, folio) in folios.iter().enumerate() {
            let (data, metadata) = folio.parts();
            assert!(data.iter().chain(metadata).all(|&byte| usize::from(byte) == index + 1));
        }
    }

    proptest! {
        #[test]
        fn folios_are_aligned_and_never_overlap(steps in prop::collection::vec((1usize..2 << 20, any::<bool>()), 1..400)) {
            let mut pool = pool();
            let mut held: Vec<BounceFolio> = Vec::new();
            let mut owner = [false; PAGES];
            for (len, give_back) in steps {
                if give_back && !held.is_empty() {
                    let folio = held.swap_remove(len % held.len());
                    owner[folio.first_page..folio.first_page + folio.pages()].fill(false);
                    pool.put(folio);
                } else if let Some(folio) = pool.take(len, FOLIO_SIZE_MIN) {
                    prop_assert!(folio.pages().is_power_of_two() && folio.first_page % folio.pages() == 0);
                    let pages = &mut owner[folio.first_page..folio.first_page + folio.pages()];
                    prop_assert!(pages.iter().all(|&owned| !owned));
                    pages.fill(true);
                    held.push(folio);
                } else {
                    prop_assert!(owner.iter().all(|&owned| owned));
                }
            }
            for folio in held {
                pool.put(folio);
            }
            prop_assert!(pool.is_whole());
        }
    }
}
