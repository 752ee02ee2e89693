//! Page-aligned memory that threads may change while the kernel reads or writes it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

const WORDS: usize = 512;
/// Of 512 bytes.
const SECTOR_WORDS: usize = 512 / size_of::<AtomicU64>();

/// 4096 bytes as words that any thread may store to at any time.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Page([AtomicU64; WORDS]);

impl Page {
    /// Size in bytes.
    pub const BYTES: usize = size_of::<Self>();

    /// Fills the page with what only page `number` of `seed` holds.
    pub fn stamp(&self, seed: u64, number: u64) {
        for (cell, index) in self.0.iter().zip(0..) {
            cell.store(stamp_word(seed, number, index), Ordering::Relaxed);
        }
    }

    /// Whether every byte still is as [`Self::stamp`] left it.
    #[must_use]
    pub fn is_stamped(&self, seed: u64, number: u64) -> bool {
        let mut cells = self.0.iter().zip(0..);
        cells.all(|(cell, index)| cell.load(Ordering::Relaxed) == stamp_word(seed, number, index))
    }

    /// The same, but for the words that [`Self::touch_sectors`] changes.
    #[must_use]
    pub fn is_stamped_but_touched(&self, seed: u64, number: u64) -> bool {
        let mut cells = self.0.iter().zip(0..).filter(|(_, index)| index % SECTOR_WORDS as u64 != 0);
        cells.all(|(cell, index)| cell.load(Ordering::Relaxed) == stamp_word(seed, number, index))
    }

    /// Whether every byte is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|cell| cell.load(Ordering::Relaxed) == 0)
    }

    /// Changes one word in every 512 bytes: the least that no guard interval can miss.
    pub fn touch_sectors(&self, word: u64) {
        for cell in self.0.iter().step_by(SECTOR_WORDS) {
            cell.store(word, Ordering::Relaxed);
        }
    }
}

/// A `SplitMix64` step: cheap under emulation, and neighbouring words have no bits in common but by
/// chance.
fn stamp_word(seed: u64, number: u64, index: u64) -> u64 {
    let mut word = seed.wrapping_add((number * WORDS as u64 + index).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A run of pages, contiguous in memory and zeroed at the start.
#[derive(Debug)]
pub struct Pages(Box<[Page]>);

impl Pages {
    /// Allocates `count` pages.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let zeroed = || Page([const { AtomicU64::new(0) }; WORDS]);
        Self(std::iter::repeat_with(zeroed).take(count).collect())
    }

    /// Length in bytes.
    #[must_use]
    pub fn byte_len(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// Where the kernel finds the bytes. It may write through this pointer: every byte lies in an
    /// atomic.
    pub(crate) fn as_ptr(&self) -> *mut libc::c_void {
        self.0.as_ptr().cast_mut().cast()
    }
}

impl std::ops::Deref for Pages {
    type Target = [Page];

    fn deref(&self) -> &[Page] {
        &self.0
    }
}

/// Does `work` while another thread changes `pages` without a pause.
///
/// # Errors
/// That of `work`.
pub fn while_rewriting(pages: &[Page], work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut sweep = 0;
            while !done.load(Ordering::Relaxed) {
                sweep += 1;
                for page in pages {
                    page.touch_sectors(sweep);
                }
            }
        });
        let worked = work();
        done.store(true, Ordering::Relaxed);
        worked
    })
}
