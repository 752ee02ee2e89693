//! Sectors of the sidecar that the medium cannot read: they are damaged sectors, as those are whose
//! bytes have flipped.
//!
//! A sector that cannot be read is taken to hold bytes that fit no checksum, so each part of the
//! sidecar treats it as it treats damage: a superblock copy gives way to the other, tuples of the
//! array are lost, a page of the log is missing, regions are dirty. The next write of the page
//! mends it. Everything that reads the sidecar does so by [`read_sidecar`].

use std::io;

use super::SECTOR_SIZE;
use super::media::{File, Media};

/// The bytes of a sector that cannot be read. No sector of all ones has a good checksum.
const DAMAGED: u8 = u8::MAX;

/// Linux's errors that say that the medium, or the file system over it, has what was asked for no
/// more: it tried, and the bytes are not those that were written. All others say that it was not
/// tried: no memory, no permission, a path or a device that is gone.
const DAMAGE: [i32; 5] = [
    5,   // EIO: what the page cache makes of all of these; checksums of btrfs
    61,  // ENODATA: a medium error of a block device
    74,  // EBADMSG: a checksum of ext4, XFS or F2FS
    84,  // EILSEQ: protection information of a block device
    117, // EUCLEAN: a structure of ext4, XFS or btrfs
];

/// Fills `buffer`, whole sectors, from byte `offset` of the sidecar. Sectors that cannot be read
/// count as damaged; the first reason is returned. Each sector is tried at least twice, so an error
/// that happens once damages nothing.
pub(super) fn read_sidecar(
    media: &impl Media,
    offset: u64,
    buffer: &mut [u8],
) -> io::Result<Option<io::Error>> {
    match media.read(File::Sidecar, offset, buffer) {
        Err(error) if is_damage(&error) => {}
        read => return read.map(|()| None),
    }
    let sectors = buffer.len() / SECTOR_SIZE;
    if sectors > 1 {
        let (first, second) = buffer.split_at_mut(sectors / 2 * SECTOR_SIZE);
        let unreadable = read_sidecar(media, offset, first)?;
        return Ok(unreadable.or(read_sidecar(media, offset + first.len() as u64, second)?));
    }
    match media.read(File::Sidecar, offset, buffer) {
        Err(error) if is_damage(&error) => {
            buffer.fill(DAMAGED);
            Ok(Some(error))
        }
        read => read.map(|()| None),
    }
}

fn is_damage(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|errno| DAMAGE.contains(&errno))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::sidecar::{PAGE_SIZE, Reason, crc_of, field};

    /// Sectors of their own number, of which one cannot be read `times` times.
    struct Bad {
        sector: u64,
        times: Cell<u32>,
        errno: i32,
    }

    impl Media for Bad {
        fn read(&self, _: File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
            let sectors = offset / 512..(offset + buffer.len() as u64) / 512;
            if sectors.contains(&self.sector) && self.times.get() > 0 {
                self.times.set(self.times.get() - 1);
                return Err(io::Error::from_raw_os_error(self.errno));
            }
            for (number, sector) in sectors.zip(buffer.chunks_exact_mut(512)) {
                sector.fill(u8::try_from(number).unwrap());
            }
            Ok(())
        }

        fn write(&self, _: u64, _: &[u8]) -> io::Result<()> {
            unreachable!("nothing is written")
        }

        fn zero(&self, _: u64, _: u64) -> io::Result<()> {
            unreachable!("nothing is written")
        }

        fn sync(&self, _: File, _: Reason) -> io::Result<()> {
            unreachable!("nothing is synced")
        }
    }

    fn read(errno: i32, times: u32) -> (io::Result<Option<i32>>, Vec<u8>) {
        let media = Bad { sector: 19, times: Cell::new(times), errno };
        let mut page = vec![0; PAGE_SIZE];
        let read = read_sidecar(&media, 16 * 512, &mut page);
        let firsts = page.chunks(512).map(|sector| sector[0]).collect();
        (read.map(|error| error.and_then(|error| error.raw_os_error())), firsts)
    }

    #[test]
    fn a_sector_that_cannot_be_read_is_damaged_and_no_other() {
        for errno in DAMAGE {
            let (unreadable, sectors) = read(errno, u32::MAX);
            assert_eq!(unreadable.unwrap(), Some(errno));
            assert_eq!(sectors, [16, 17, 18, DAMAGED, 20, 21, 22, 23]);
        }
    }

    #[test]
    fn an_error_that_happens_once_damages_nothing() {
        for times in 0..=4 {
            let (unreadable, sectors) = read(5, times);
            assert_eq!(unreadable.unwrap(), None);
            assert_eq!(sectors, [16, 17, 18, 19, 20, 21, 22, 23]);
        }
    }

    #[test]
    fn a_read_that_was_not_tried_is_no_damage() {
        // no such device, no memory, no answer, a stale file handle
        for errno in [6, 12, 19, 110, 116] {
            assert_eq!(read(errno, u32::MAX).0.unwrap_err().raw_os_error(), Some(errno));
        }
    }

    #[test]
    fn what_stands_for_it_fits_no_checksum() {
        let sector = [DAMAGED; SECTOR_SIZE];
        assert_ne!(u64::from_be_bytes(field(&sector, 504)), crc_of(&sector[..504]));
    }
}
