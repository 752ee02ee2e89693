//! The files of an image and its sidecar, as the tag intent log accesses them.

use std::fs::File;
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::UNIX_EPOCH;

use integrity::sidecar::{self, Layout, Media, Reason, Stamp};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use crate::storage::blocking::debug_assert_may_block;
use crate::storage::durability::Durability;
use crate::storage::image::{Alignment, next_data, read_at_least};
use crate::storage::reopen::reopen;
use crate::storage::session_stamp;
use crate::storage::write_back::write_back;

/// Zeros that are written at once, in bytes, where no hole can be punched.
const ZEROS_MAX: u64 = 1 << 20;

/// The files of one image. The sidecar is accessed through the page cache, the image as it was
/// opened.
#[derive(Debug)]
pub struct SidecarMedia {
    image: File,
    alignment: Alignment,
    sidecar: File,
    /// Where the tuple array begins, in bytes. Behind it a page may be read while it is written.
    array: u64,
    /// Keeps reads and writes of the array apart: the page cache does so for bytes, but a checksum
    /// covers a sector.
    array_access: Arc<RwLock<()>>,
    /// Whether data written to the image can still be made durable. Data in the sidecar is written
    /// again after its sync has failed.
    durability: Durability,
}

impl SidecarMedia {
    /// Media of two files that are open for the accesses to come. Requests for `image` are aligned
    /// to `alignment`.
    pub fn new(image: File, alignment: Alignment, sidecar: File) -> Self {
        let (array, array_access, durability) = (u64::MAX, Arc::default(), Durability::default());
        Self { image, alignment, sidecar, array, array_access, durability }
    }

    /// These media with the place of the array, which is known after a superblock was read.
    #[must_use]
    pub fn with_layout(self, layout: &Layout) -> Self {
        Self { array: layout.array_offset(), ..self }
    }

    /// These media with the durability of the image, which other users of the image share.
    #[must_use]
    pub fn with_durability(self, durability: Durability) -> Self {
        Self { durability, ..self }
    }

    /// These media for another thread, which may sync the sidecar at the same time: see [`reopen`].
    pub fn for_another_thread(&self) -> io::Result<Self> {
        Ok(Self {
            image: self.image.try_clone()?,
            sidecar: reopen(&self.sidecar, File::options().read(true).write(true))?,
            array_access: self.array_access.clone(),
            durability: self.durability.clone(),
            ..*self
        })
    }

    /// The sidecar's file.
    pub fn sidecar(&self) -> &File {
        &self.sidecar
    }

    /// The first interval at or after `interval` that may have been written, by the holes of the
    /// array of `layout`.
    pub fn next_written(&self, layout: &Layout, interval: u64) -> io::Result<Option<u64>> {
        let data = next_data(&self.sidecar, layout.page_offset(layout.page_of(interval)))?;
        Ok(data.map(|offset| {
            let page = (offset - layout.array_offset()) / sidecar::PAGE_SIZE as u64;
            layout.intervals_of(page).start.max(interval)
        }))
    }

    /// While the result lives, calls for the tuple array wait.
    #[cfg(test)]
    pub fn stall(&self) -> std::sync::RwLockWriteGuard<'_, ()> {
        self.array_access.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads whole blocks to aligned addresses, as direct I/O needs it, and drops the bytes that
    /// are not asked for.
    fn read_image(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let align = self.alignment.offset.max(self.alignment.memory) as usize;
        let start = offset / align as u64 * align as u64;
        let lead = usize::try_from(offset - start).map_err(io::Error::other)?;
        let needed = lead + buffer.len();
        let len = needed.next_multiple_of(align);
        let mut blocks = vec![0; len + align];
        let pad = blocks.as_ptr().align_offset(align);
        let blocks = &mut blocks[pad..pad + len];
        read_at_least(&self.image, start, needed, blocks)?;
        buffer.copy_from_slice(&blocks[lead..needed]);
        Ok(())
    }
}

impl Media for SidecarMedia {
    fn read(&self, file: sidecar::File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        debug_assert_may_block();
        match file {
            sidecar::File::Image => self.read_image(offset, buffer),
            sidecar::File::Sidecar if offset >= self.array => {
                let _whole = self.array_access.read().unwrap_or_else(PoisonError::into_inner);
                self.sidecar.read_exact_at(buffer, offset)
            }
            sidecar::File::Sidecar => self.sidecar.read_exact_at(buffer, offset),
        }
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        debug_assert_may_block();
        next_data(&self.image, offset)
    }

    fn next_sidecar_data(&self, offset: u64) -> io::Result<Option<u64>> {
        debug_assert_may_block();
        next_data(&self.sidecar, offset)
    }

    fn stamp(&self) -> io::Result<Option<Stamp>> {
        Ok(session_stamp::read(&self.image))
    }

    fn set_stamp(&self, stamp: &Stamp) -> io::Result<()> {
        debug_assert_may_block();
        session_stamp::write(&self.image, stamp)?;
        // not only the data, which can be read without the attribute
        self.durability.outcome(self.image.sync_all())
    }

    fn image_modified(&self) -> io::Result<u64> {
        let metadata = self.image.metadata()?;
        if !metadata.is_file() {
            return Ok(0);
        }
        let modified = metadata.modified()?.duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        u64::try_from(modified.as_nanos()).map_err(io::Error::other)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        debug_assert_may_block();
        let _whole =
            (offset >= self.array).then(|| self.array_access.write().unwrap_or_else(PoisonError::into_inner));
        self.sidecar.write_all_at(bytes, offset)
    }

    fn write_durably(&self, offset: u64, parts: &[&[u8]], reason: Reason) -> io::Result<()> {
        debug_assert_may_block();
        let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let len: usize = parts.iter().map(|part| part.len()).sum();
        debug_assert!(offset + len as u64 <= self.array, "the array has readers beside this thread");
        match pwritev2(&self.sidecar, &slices, offset, ReadWriteFlags::DSYNC) {
            Ok(written) if written == len => Ok(()),
            // not all at once, or a file without such writes
            Ok(_) | Err(Errno::OPNOTSUPP | Errno::INTR) => {
                let mut at = offset;
                for part in parts {
                    self.write(at, part)?;
                    at += part.len() as u64;
                }
                self.sync(sidecar::File::Sidecar, reason)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        debug_assert_may_block();
        let _whole = self.array_access.write().unwrap_or_else(PoisonError::into_inner);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.sidecar, hole, offset, len) {
            Err(Errno::OPNOTSUPP) => {
                let zeros = vec![0; usize::try_from(len.min(ZEROS_MAX)).map_err(io::Error::other)?];
                let mut places = (offset..offset + len).step_by(zeros.len());
                places.try_for_each(|at| {
                    let len =
                        usize::try_from(offset + len - at).map_or(zeros.len(), |it| it.min(zeros.len()));
                    self.sidecar.write_all_at(&zeros[..len], at)
                })
            }
            punched => Ok(punched?),
        }
    }

    fn will_read(&self, range: Range<u64>) {
        // only a saving
        let _ =
            fadvise(&self.sidecar, range.start, NonZeroU64::new(range.end - range.start), Advice::WillNeed);
    }

    fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        debug_assert_may_block();
        write_back(&self.sidecar, range)
    }

    fn forget_lost(&self) -> io::Result<()> {
        debug_assert_may_block();
        // pages that are dirty stay
        Ok(fadvise(&self.sidecar, 0, None, Advice::DontNeed)?)
    }

    fn sync(&self, file: sidecar::File, reason: Reason) -> io::Result<()> {
        debug_assert_may_block();
        match file {
            sidecar::File::Image => {
                self.durability.outcome(self.image.sync_data())?;
                if reason == Reason::RecoveryLeftovers {
                    // recovery is to judge what the medium has: a sync that failed before a restart
                    // may have left more in the page cache
                    fadvise(&self.image, 0, None, Advice::DontNeed)?;
                }
                Ok(())
            }
            sidecar::File::Sidecar => self.sidecar.sync_data(),
        }
    }
}

#[cfg(test)]
mod tests {
    use integrity::sidecar::{Superblock, TuplePage};
    use integrity::{Guard, IntegrityProfile, PiType};
    use rustix::io::preadv2;

    use super::*;
    use crate::storage::thin_device::ThinDevice;

    #[test]
    fn no_checkpoint_relies_on_an_image_of_which_a_flush_has_failed() {
        let (image, sidecar) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        let durability = Durability::default();
        let media = SidecarMedia::new(image, Alignment::ANY, sidecar).with_durability(durability.clone());
        let sync = |file| media.sync(file, Reason::CheckpointData);
        sync(sidecar::File::Image).unwrap();
        durability.outcome(Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        sync(sidecar::File::Image).unwrap_err();
        sync(sidecar::File::Sidecar).unwrap();
    }

    #[test]
    fn pages_side_by_side_are_written_behind_one_another() {
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let media =
            SidecarMedia::new(tempfile::tempfile().unwrap(), Alignment::ANY, file.try_clone().unwrap());
        // more than one call of the kernel takes
        let pages: Vec<_> = (0..1500_u32).map(|page| page.to_le_bytes().repeat(1024)).collect();
        let parts: Vec<_> = pages.iter().map(Vec::as_slice).collect();
        media.write_durably(8192, &parts, Reason::Commit).unwrap();
        let mut written = vec![0; parts.len() * 4096];
        file.read_exact_at(&mut written, 8192).unwrap();
        assert!(written == pages.concat());
        assert_eq!(file.metadata().unwrap().len(), 8192 + written.len() as u64);
    }

    #[test]
    fn a_durable_write_fails_for_pages_that_were_lost_before() {
        let Some(thin) = ThinDevice::attach() else { return };
        let sidecar = File::options().read(true).write(true).open(thin.path()).unwrap();
        let media = SidecarMedia::new(tempfile::tempfile().unwrap(), Alignment::ANY, sidecar);
        let durably = || media.write_durably(0, &[&[1; 4096]], Reason::Commit);
        durably().unwrap();
        let kernel = media.for_another_thread().unwrap();
        media.write(4 << 20, &vec![1; 2 << 20]).unwrap();
        // as when the kernel writes them back by itself
        kernel.sync(sidecar::File::Sidecar, Reason::Growth).unwrap_err();
        durably().unwrap_err();
        durably().unwrap();
    }

    #[test]
    fn another_thread_does_not_hide_what_was_lost() {
        let Some(thin) = ThinDevice::attach() else { return };
        let sidecar = File::options().read(true).write(true).open(thin.path()).unwrap();
        let media = SidecarMedia::new(tempfile::tempfile().unwrap(), Alignment::ANY, sidecar);
        let other = media.for_another_thread().unwrap();
        media.write(4 << 20, &vec![1; 2 << 20]).unwrap();
        for media in [&other, &media] {
            media.sync(sidecar::File::Sidecar, Reason::Growth).unwrap_err();
        }
    }

    #[test]
    fn a_page_that_the_kernel_cannot_read_loses_its_tuples_until_it_is_written() {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        let superblock = Superblock::new([1; 16], profile, 4096 * 248 * 2).unwrap();
        let layout = superblock.layout();
        let Some(thin) = ThinDevice::attach_with(layout.sidecar_size()) else { return };
        let sidecar = File::options().read(true).write(true).open(thin.path()).unwrap();
        let media = SidecarMedia::new(tempfile::tempfile().unwrap(), Alignment::ANY, sidecar);
        let media = media.with_layout(layout);
        superblock.create(&media).unwrap();
        let pages = [0, 1].map(|page| TuplePage { page, tuples: vec![7; 248 * 16], lost: Vec::new() });
        for page in &pages {
            page.write(layout, &media).unwrap();
        }
        media.sync(sidecar::File::Sidecar, Reason::Growth).unwrap();
        fadvise(media.sidecar(), 0, None, Advice::DontNeed).unwrap();
        thin.cut_off(layout.page_offset(1));
        let read = |page| TuplePage::read(layout, &media, page).unwrap();
        let lost = |page: TuplePage| page.lost.into_iter().flatten().count();
        assert_eq!((lost(read(0)), lost(read(1))), (0, 248));
        pages[1].write(layout, &media).unwrap();
        assert_eq!((lost(read(1)), read(1).tuples == pages[1].tuples), (0, true));
    }

    /// Whether a read would find its bytes in the page cache; `None` where that is all there is.
    fn is_cached(file: &File) -> Option<bool> {
        let mut block = [0; 4096];
        let buffer = &mut [io::IoSliceMut::new(&mut block)];
        match preadv2(file, buffer, 0, ReadWriteFlags::NOWAIT) {
            Ok(len) => Some(len == 4096),
            Err(Errno::AGAIN) => Some(false),
            Err(Errno::OPNOTSUPP) => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn recovery_judges_the_medium_and_not_the_page_cache() {
        // not in a temporary directory, which may lie in memory
        let image = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        image.write_all_at(&[7; 4096], 0).unwrap();
        let media =
            SidecarMedia::new(image.try_clone().unwrap(), Alignment::ANY, tempfile::tempfile().unwrap());
        media.sync(sidecar::File::Image, Reason::CheckpointData).unwrap();
        let Some(cached) = is_cached(&image) else {
            return crate::skip::skip("the source lies on a file system in memory");
        };
        assert!(cached);
        media.sync(sidecar::File::Image, Reason::RecoveryLeftovers).unwrap();
        assert_eq!(is_cached(&image), Some(false));
    }
}
