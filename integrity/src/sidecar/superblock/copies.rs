//! The two copies of the superblock in a sidecar, of which the newest good one counts.

use std::io;

use super::{Superblock, SuperblockError};
use crate::sidecar::media::{File, Media, Reason};
use crate::sidecar::pairing::TwoMoments;
use crate::sidecar::unreadable::read_sidecar;
use crate::sidecar::{PAGE_SIZE, SECTOR_SIZE, SUPERBLOCK_SIZE, put};

/// Why a sidecar's superblock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Neither copy is good; this is what is wrong with the first.
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    /// Image and sidecar do not belong together as they are. Nothing was written.
    #[error(transparent)]
    TwoMoments(#[from] TwoMoments),
    /// The medium failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The superblock that counts, and what was wrong with the other copy.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The newest good copy.
    pub superblock: Superblock,
    /// The copy that is not good, if one is not: 0 or 1, and why.
    pub damaged: Option<(usize, SuperblockError)>,
    /// The copy that the superblock is of.
    newest: usize,
    /// Whether the medium is known to have it, durably. One that was read may be in the page cache
    /// only, and after a replacement that has failed there may be that or this.
    pub(in crate::sidecar) is_durable: bool,
}

impl Superblock {
    /// Writes both copies to a new sidecar.
    pub fn create(&self, media: &impl Media) -> io::Result<()> {
        let page = self.page();
        media.write(0, &page[..])?;
        media.write(SUPERBLOCK_SIZE, &page[..])
    }

    /// The page of one copy.
    fn page(&self) -> Box<[u8; PAGE_SIZE]> {
        let mut page = Box::new([0; PAGE_SIZE]);
        put(&mut page[..], 0, &self.encode());
        page
    }
}

impl Loaded {
    fn of(superblock: Superblock, newest: usize, damaged: Option<(usize, SuperblockError)>) -> Self {
        Self { superblock, damaged, newest, is_durable: false }
    }

    /// Reads both copies and takes the newest that is good. With none good, it fails with the error
    /// of the first.
    pub fn from(media: &impl Media) -> Result<Self, LoadError> {
        let copy = |copy| -> Result<Result<Superblock, SuperblockError>, io::Error> {
            let mut bytes = [0; SECTOR_SIZE];
            let unreadable = read_sidecar(media, copy * SUPERBLOCK_SIZE, &mut bytes)?;
            Ok(match unreadable.and_then(|error| error.raw_os_error()) {
                Some(errno) => Err(SuperblockError::Unreadable { errno }),
                None => Superblock::decode(&bytes),
            })
        };
        match (copy(0)?, copy(1)?) {
            (Ok(first), Ok(second)) if first.generation < second.generation => Ok(Self::of(second, 1, None)),
            (Ok(superblock), Ok(_)) => Ok(Self::of(superblock, 0, None)),
            (Ok(superblock), Err(error)) => Ok(Self::of(superblock, 0, Some((1, error)))),
            (Err(error), Ok(superblock)) => Ok(Self::of(superblock, 1, Some((0, error)))),
            (Err(error), Err(_)) => Err(error.into()),
        }
    }

    /// Puts `superblock` in place of this one: first over the copy that is not the newest, so that
    /// a good one is always there. Durable when it returns; the other copy follows with the next
    /// sync.
    pub fn replace(&mut self, media: &impl Media, superblock: Superblock) -> io::Result<()> {
        let superblock = Superblock { generation: self.superblock.generation + 1, ..superblock };
        let page = superblock.page();
        let (older, newer) = (1 - self.newest, self.newest);
        self.is_durable = false;
        media.write(older as u64 * SUPERBLOCK_SIZE, &page[..])?;
        media.sync(File::Sidecar, Reason::Superblock)?;
        *self = Self { is_durable: true, ..Self::of(superblock, older, None) };
        media.write(newer as u64 * SUPERBLOCK_SIZE, &page[..])
    }
}
