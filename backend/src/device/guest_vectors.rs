//! Guest memory that the device reads or writes itself, without a bounce.

use std::rc::Rc;

use virtio::Segments;
use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

use crate::guest::memory_table::GuestMemory;

/// Runs of guest memory, as the kernel takes them. The memory stays mapped for as long as this
/// value exists.
#[derive(Debug)]
pub struct GuestVectors {
    vectors: Vec<libc::iovec>,
    /// Keeps the regions mapped that the vectors point into.
    _memory: Rc<GuestMemory>,
}

/// Lists of vectors to be used again, so that a request allocates none. Each worker has its own.
#[derive(Debug, Default)]
pub struct SpareVectors(Vec<Vec<libc::iovec>>);

impl SpareVectors {
    /// A longer list is not worth its memory.
    const LEN_MAX: usize = 32;
    /// Nor are more lists.
    const LISTS_MAX: usize = 256;

    /// Takes a list back.
    #[inline]
    pub fn put(&mut self, GuestVectors { mut vectors, .. }: GuestVectors) {
        if vectors.capacity() <= Self::LEN_MAX && self.0.len() < Self::LISTS_MAX {
            vectors.clear();
            self.0.push(vectors);
        }
    }
}

impl GuestVectors {
    /// The vectors of `len` bytes of `data` from byte `offset` on, in `memory`. `None` unless each
    /// is aligned to `alignment` bytes in address and length and they are few enough for one system
    /// call.
    #[inline]
    pub fn of(
        memory: &Rc<GuestMemory>,
        data: &Segments,
        offset: u64,
        len: u64,
        alignment: usize,
        spare: &mut SpareVectors,
    ) -> Option<Self> {
        let slices = data.slices(&**memory, offset, len).ok()?;
        let vectors = spare.0.pop().unwrap_or_default();
        let mut guest = Self { vectors, _memory: memory.clone() };
        for slice in slices {
            let vector = slice.ok().and_then(|slice| aligned(&slice, alignment));
            match vector {
                Some(vector) if guest.vectors.len() < libc::UIO_MAXIOV as usize => guest.vectors.push(vector),
                _ => {
                    spare.put(guest);
                    return None;
                }
            }
        }
        Some(guest)
    }

    /// The vectors, for the submission queue entry. Their place does not change when this value
    /// moves.
    pub fn as_slice(&self) -> &[libc::iovec] {
        &self.vectors
    }

    /// The bytes of all vectors together.
    pub(super) fn len(&self) -> usize {
        self.vectors.iter().map(|vector| vector.iov_len).sum()
    }
}

fn aligned<B: BitmapSlice>(slice: &VolatileSlice<'_, B>, alignment: usize) -> Option<libc::iovec> {
    let start = slice.ptr_guard_mut().as_ptr();
    let aligned = start.addr().is_multiple_of(alignment) && slice.len().is_multiple_of(alignment);
    aligned.then_some(libc::iovec { iov_base: start.cast(), iov_len: slice.len() })
}

#[cfg(test)]
mod tests {
    use virtio::testing::{ChainBuffer, Driver};
    use virtio::{Request, request_type};
    use vm_memory::GuestAddress;

    use super::*;

    /// The data of a read into `len` bytes at `address`.
    fn data(memory: &GuestMemory, address: u64, len: u32) -> Segments {
        let (ring, header, status) = (0x8_0000, 0x9_0000, 0x9_1000);
        let mut driver = Driver::new(memory, ring, 4);
        let mut ring = driver.device(false).unwrap();
        driver.write_header(header, request_type::IN, 0);
        let chain = [
            ChainBuffer::readable(header, 16),
            ChainBuffer::writable(address, len),
            ChainBuffer::writable(status, 1),
        ];
        let head = driver.write_chain(&chain);
        driver.make_available(head);
        let Request { data, reply, .. } = Request::parse(memory, ring.pop(memory).unwrap().unwrap()).unwrap();
        reply.abandon();
        data
    }

    #[test]
    fn a_list_of_vectors_is_used_again() {
        let memory = Rc::new(GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap());
        let mut spare = SpareVectors::default();
        let mut vectors = |address, len| {
            let guest =
                GuestVectors::of(&memory, &data(&memory, address, len), 0, len.into(), 512, &mut spare)?;
            let (place, first) = (guest.as_slice().as_ptr(), guest.as_slice()[0]);
            assert_eq!(guest.len(), first.iov_len);
            spare.put(guest);
            Some((place, first.iov_base.addr(), first.iov_len))
        };
        let (place, start, _) = vectors(0, 512).unwrap();
        assert_eq!(vectors(100, 512), None, "not aligned");
        assert_eq!(vectors(4096, 1024), Some((place, start + 4096, 1024)));
    }
}
