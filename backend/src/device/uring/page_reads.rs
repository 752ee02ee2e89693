//! Pages of another file, which a ring reads beside its operations.

use std::collections::VecDeque;
use std::io;

use io_uring::{opcode, squeue, types};
use slab::Slab;

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

/// The pages of one ring.
#[derive(Debug, Default)]
pub(super) struct PageReads {
    in_flight: Slab<PageRead>,
    done: VecDeque<(PageRead, io::Result<()>)>,
}

impl PageReads {
    /// Takes in a page at byte `offset` of the file, and returns its slot.
    pub(super) fn add(&mut self, number: u64, offset: u64) -> usize {
        self.in_flight.insert(PageRead { number, offset, bytes: Box::new([0; PAGE_LEN as usize]) })
    }

    /// The entry that reads the page in `slot`. It names the bytes of the page's box, which stay in
    /// place until the page is finished.
    pub(super) fn entry(&mut self, slot: usize) -> squeue::Entry {
        let page = &mut self.in_flight[slot];
        opcode::Read::new(PAGES, page.bytes.as_mut_ptr(), PAGE_LEN).offset(page.offset).build()
    }

    /// Takes the result of the page in `slot`, as a completion has it. False if the page is to be
    /// read again.
    pub(super) fn finish(&mut self, slot: usize, result: i32) -> bool {
        if matches!(-result, libc::EAGAIN | libc::EINTR) {
            return false;
        }
        let outcome = match u32::try_from(result) {
            Ok(PAGE_LEN) => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        };
        self.done.push_back((self.in_flight.remove(slot), outcome));
        true
    }

    /// A page that was read, or could not be.
    pub(super) fn take(&mut self) -> Option<(PageRead, io::Result<()>)> {
        self.done.pop_front()
    }

    /// Whether there is one to take.
    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// The number of pages that are being read.
    pub(super) fn count_in_flight(&self) -> usize {
        self.in_flight.len()
    }
}
