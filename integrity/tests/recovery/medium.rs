//! Image and sidecar in memory.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;

use stableblk_integrity::sidecar::{File, Media, Reason, SECTOR_SIZE};

/// Both files in memory. Parts that were never written read as zeros, and are holes.
#[derive(Debug, Default)]
pub(crate) struct Medium {
    image: RefCell<BTreeMap<u64, Box<[u8; SECTOR_SIZE]>>>,
    sidecar: RefCell<BTreeMap<u64, Box<[u8; SECTOR_SIZE]>>>,
    pub(crate) image_bytes_read: Cell<u64>,
    /// The errno with which all reads of the sidecar fail; 0: none.
    pub(crate) sidecar_errno: Cell<i32>,
}

impl Medium {
    fn file(&self, file: File) -> &RefCell<BTreeMap<u64, Box<[u8; SECTOR_SIZE]>>> {
        match file {
            File::Image => &self.image,
            File::Sidecar => &self.sidecar,
        }
    }

    pub(crate) fn put(&self, file: File, offset: u64, bytes: &[u8]) {
        let mut sectors = self.file(file).borrow_mut();
        for (at, sector) in (offset / SECTOR_SIZE as u64..).zip(bytes.as_chunks::<SECTOR_SIZE>().0) {
            sectors.insert(at, Box::new(*sector));
        }
    }
}

impl Media for Medium {
    fn read(&self, file: File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if file == File::Image {
            self.image_bytes_read.set(self.image_bytes_read.get() + buffer.len() as u64);
        } else if self.sidecar_errno.get() != 0 {
            return Err(io::Error::from_raw_os_error(self.sidecar_errno.get()));
        }
        let sectors = self.file(file).borrow();
        for (at, sector) in (offset / SECTOR_SIZE as u64..).zip(buffer.as_chunks_mut::<SECTOR_SIZE>().0) {
            *sector = sectors.get(&at).map_or([0; SECTOR_SIZE], |bytes| **bytes);
        }
        Ok(())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let image = self.image.borrow();
        let next = image.range(offset / SECTOR_SIZE as u64..).next();
        Ok(next.map(|(at, _)| (at * SECTOR_SIZE as u64).max(offset)))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.put(File::Sidecar, offset, bytes);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.write(offset, &vec![0; usize::try_from(len).map_err(io::Error::other)?])
    }

    fn sync(&self, _: File, _: Reason) -> io::Result<()> {
        Ok(())
    }
}
