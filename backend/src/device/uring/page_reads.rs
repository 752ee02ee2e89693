//! Pages of another file, which the ring reads beside the operations.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use io_uring::{opcode, types};

use super::{Ring, RingStep};
use crate::device::EventSources;
use crate::device::bounce::Arena;
use crate::storage::image::Image;

/// Set in the `user_data` of a page, with its slot.
pub(super) const PAGE: u64 = 1 << 62;
/// The file with the pages, by its place in the list given to `Ring::new`.
const PAGES: types::Fixed = types::Fixed(2);
/// Bytes of a page.
const PAGE_LEN: u32 = 4096;

/// A page that is read.
#[derive(Debug)]
pub(in crate::device) struct PageRead {
    /// The number that the caller gave it.
    pub(in crate::device) number: u64,
    offset: u64,
    /// The content of the page, once it was read.
    pub(in crate::device) bytes: Box<[u8; PAGE_LEN as usize]>,
}

impl<S: RingStep> Ring<S> {
    /// A ring over `image` that reads pages of the file `pages` too; see [`Self::over`].
    pub(in crate::device) fn over_with_pages(
        image: &Image,
        pages: BorrowedFd<'_>,
        arena: &Arena,
        sources: EventSources<'_>,
    ) -> io::Result<Self> {
        let for_sync = image.open_for_sync()?;
        let files = [image.file().as_fd(), for_sync.as_fd(), pages];
        Self::new(arena, &files, image.durability(), sources)
    }

    /// Begins to read the page at byte `offset`, which comes back with `number`. The next
    /// [`Self::enter`] submits the read to the kernel.
    pub(in crate::device) fn read_page(&mut self, number: u64, offset: u64) {
        let bytes = Box::new([0; PAGE_LEN as usize]);
        let slot = self.pages.insert(PageRead { number, offset, bytes });
        self.push_page(slot);
    }

    /// A page that was read, or could not be, since the last [`Self::reap`].
    pub(in crate::device) fn take_page(&mut self) -> Option<(PageRead, io::Result<()>)> {
        self.read_pages.pop_front()
    }

    /// The number of pages that are being read.
    #[cfg(test)]
    pub(in crate::device) fn pages_in_flight(&self) -> usize {
        self.pages.len()
    }

    fn push_page(&mut self, slot: usize) {
        let page = &mut self.pages[slot];
        // of memory that the page owns in a box, which stays in place until the page is removed
        let entry = opcode::Read::new(PAGES, page.bytes.as_mut_ptr(), PAGE_LEN).offset(page.offset);
        if let Err(errno) = self.push(entry.build().into(), PAGE | slot as u64) {
            // the kernel has not taken it
            self.finish_page(slot, -errno);
        }
    }

    /// Takes the result of a page, as a completion has it.
    pub(super) fn finish_page(&mut self, slot: usize, result: i32) {
        if matches!(-result, libc::EAGAIN | libc::EINTR) {
            return self.push_page(slot);
        }
        let outcome = match u32::try_from(result) {
            Ok(PAGE_LEN) => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        self.read_pages.push_back((self.pages.remove(slot), outcome));
    }
}
