//! Operations on one file.

use std::ops::Range;

use fastrand::Rng;

/// No file is longer, in bytes.
pub(crate) const FILE_LEN_MAX: usize = 1 << 20;
/// No read or write is longer, in bytes: larger than a page of any kind, so that it becomes several
/// requests now and then.
const TRANSFER_MAX: usize = 128 << 10;

/// How bytes pass between the program and a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// read(2) and write(2) through the page cache.
    Buffered,
    /// read(2) and write(2) with `O_DIRECT`.
    Direct,
    /// Loads and stores in a shared mapping.
    Mapped,
}

impl Route {
    pub(crate) const ALL: [Self; 3] = [Self::Buffered, Self::Direct, Self::Mapped];
}

/// One step; ranges and lengths are in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    Read {
        route: Route,
        range: Range<usize>,
    },
    /// The data are the random bytes of `seed`.
    Write {
        route: Route,
        range: Range<usize>,
        seed: u64,
    },
    /// Cuts off, or adds zeros.
    Truncate {
        len: usize,
    },
    /// Makes zeros without a change of length.
    PunchHole {
        range: Range<usize>,
    },
    Sync,
    /// Deletes the file and makes an empty one of its name.
    Replace,
}

impl Operation {
    /// Direct transfers are of whole blocks of `block_size` bytes, which `O_DIRECT` asks for.
    pub(crate) fn random(rng: &mut Rng, block_size: usize) -> Self {
        match rng.u32(..100) {
            0..44 => {
                let (route, range) = random_transfer(rng, block_size);
                Self::Write { route, range, seed: rng.u64(..) }
            }
            44..84 => {
                let (route, range) = random_transfer(rng, block_size);
                Self::Read { route, range }
            }
            84..87 => Self::Truncate { len: rng.usize(..=FILE_LEN_MAX) },
            87..92 => Self::PunchHole { range: random_range(rng) },
            92..99 => Self::Sync,
            _ => Self::Replace,
        }
    }
}

fn random_transfer(rng: &mut Rng, block_size: usize) -> (Route, Range<usize>) {
    let (route, range) = (Route::ALL[rng.usize(..Route::ALL.len())], random_range(rng));
    match route {
        Route::Direct => {
            (route, range.start / block_size * block_size..range.end.next_multiple_of(block_size))
        }
        Route::Buffered | Route::Mapped => (route, range),
    }
}

/// Never empty; as often short as long, so that parts of blocks are as common as runs of them.
fn random_range(rng: &mut Rng) -> Range<usize> {
    let longest = if rng.bool() { TRANSFER_MAX } else { TRANSFER_MAX >> 5 };
    let start = rng.usize(..FILE_LEN_MAX);
    start..FILE_LEN_MAX.min(start + rng.usize(1..=longest))
}
