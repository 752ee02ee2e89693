//! A device that does no I/O, to measure the path alone: `--device null` of builds with the feature
//! `bench-null`.
//!
//! It wraps another device and has its size, alignment, protection and events, but no operation
//! reaches that device. Nothing is stored. A write is copied and gets its tuples, and both are
//! dropped. A read returns zeros and the tuples of zeros, so it is verified and copied like any
//! other. Filling memory with zeros takes the place of a disk's DMA; QEMU's null-co does the same
//! with `read-zeroes=on`.

#![expect(unsafe_code, reason = "without a bounce, guest memory is known by pointers alone")]

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources, Protection};
use crate::device::bounce::Arena;
use crate::device::guest_vectors::GuestVectors;
use crate::device::operation::{DeviceOperation, Transfer, TransferBuffer, TransferDirection};

/// Bytes of zeros that tuples are computed from at a time; a multiple of every interval.
const CHUNK: usize = 1 << 20;

/// Another device without its I/O.
#[derive(Debug)]
pub struct NullDevice<B> {
    device: Arc<B>,
    /// The tuples of a device of zeros, computed beforehand: a real device computes none, so the
    /// measured path must not either.
    tuples: Vec<u8>,
}

impl<B: BlockDevice> NullDevice<B> {
    /// A device that takes the place of `device`.
    pub fn new(device: B) -> Self {
        let DeviceInfo { protection, ref capacity, .. } = *device.info();
        let tuples =
            protection.map_or_else(Vec::new, |protection| tuples_of_zeros(protection, capacity.get()));
        Self { device: Arc::new(device), tuples }
    }

    fn read(&self, transfer: &mut Transfer) {
        let is_bounced = match transfer.buffer() {
            TransferBuffer::Bounce(_) => true,
            TransferBuffer::Guest(vectors, _) => {
                fill_with_zeros(vectors);
                false
            }
        };
        let (offset, len) = (transfer.offset(), transfer.len());
        let Some((data, metadata)) = transfer.parts_mut() else { return };
        if is_bounced {
            data[..len].fill(0);
        }
        if let Some(protection) = self.device.info().protection {
            let first = usize::try_from(offset).expect("its tuples are in memory");
            let tuples = protection.metadata_len(first)..protection.metadata_len(first + len);
            metadata[..tuples.len()].copy_from_slice(&self.tuples[tuples]);
        }
    }
}

fn tuples_of_zeros(protection: Protection, capacity: u64) -> Vec<u8> {
    let capacity = usize::try_from(capacity).expect("a device to measure with has tuples that fit in memory");
    let (mut tuples, zeros) = (vec![0; protection.metadata_len(capacity)], vec![0; CHUNK]);
    for start in (0..capacity).step_by(CHUNK) {
        let len = CHUNK.min(capacity - start);
        let metadata = &mut tuples[protection.metadata_len(start)..];
        let generated = protection.generate(start as u64, 0..len, &zeros, metadata);
        generated.expect("whole intervals and room for their tuples");
    }
    tuples
}

fn fill_with_zeros(vectors: &GuestVectors) {
    for vector in vectors.as_slice() {
        // SAFETY: `GuestVectors::of` made each vector of `iov_len` bytes of guest memory, which the
        // value keeps mapped. No code of this process has a reference to guest memory; the guest's
        // own accesses race with this one as they do with a disk's DMA.
        unsafe { vector.iov_base.cast::<u8>().write_bytes(0, vector.iov_len) };
    }
}

impl<B: BlockDevice> BlockDevice for NullDevice<B> {
    type Queue = NullQueue<B>;

    fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<Self::Queue> {
        let events = self.device.open_queue(arena, sources)?;
        Ok(NullQueue { device: self.clone(), events, done: VecDeque::new() })
    }

    fn close(&self) -> io::Result<()> {
        self.device.close()
    }
}

/// A worker's access to the null device. Every operation is done when it is submitted.
#[derive(Debug)]
pub struct NullQueue<B: BlockDevice> {
    device: Arc<NullDevice<B>>,
    /// The other device's queue, for the driver's and the session's signals.
    events: B::Queue,
    done: VecDeque<DeviceOperation>,
}

impl<B: BlockDevice> DeviceQueue for NullQueue<B> {
    fn submit(&mut self, mut operation: DeviceOperation) {
        if let DeviceOperation::Transfer(transfer) = &mut operation
            && transfer.direction() == TransferDirection::Read
        {
            self.device.read(transfer);
        }
        self.done.push_back(operation);
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        if wait && self.done.is_empty() {
            return self.events.enter(true);
        }
        if self.events.has_work() { self.events.enter(false) } else { Ok(()) }
    }

    fn enter_for(&mut self, limit: Duration) -> io::Result<()> {
        if self.done.is_empty() { self.events.enter_for(limit) } else { self.enter(false) }
    }

    fn has_work(&mut self) -> bool {
        !self.done.is_empty() || self.events.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        self.done.pop_front().map(|operation| Event::Done(operation, Ok(()))).or_else(|| self.events.reap())
    }
}

#[cfg(test)]
mod tests {
    use integrity::{Guard, IntegrityProfile, PiType};

    use super::*;
    use crate::device::OwnEvents;
    use crate::device::bounce::FolioPool;
    use crate::device::mem::MemDevice;
    use crate::device::operation::Piece;

    const LEN: usize = 8192;
    /// Not the start, where reference tags are zero, and not in the first chunk.
    const OFFSET: u64 = CHUNK as u64 + 4096;

    fn device() -> Arc<NullDevice<MemDevice>> {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        Arc::new(NullDevice::new(MemDevice::new(Some(profile), CHUNK + 64 * 1024)))
    }

    /// Does one transfer of a folio full of 0xA5, data and metadata.
    fn transfer(device: &Arc<NullDevice<MemDevice>>, direction: TransferDirection) -> Transfer {
        let protection = device.info().protection.unwrap();
        let mut pool = FolioPool::reserve(protection.metadata_per_page()).unwrap();
        let events = OwnEvents::new().unwrap();
        let mut queue = device.open_queue(pool.arena(), events.sources()).unwrap();
        let mut folio = pool.take(LEN, 4096).unwrap();
        folio.parts_mut().0.fill(0xA5);
        folio.parts_mut().1.fill(0xA5);
        let piece = Piece { request: 7, data_offset: 0, data_len: LEN, lead: 0, merge: false };
        let buffer = TransferBuffer::Bounce(folio);
        queue.submit(DeviceOperation::Transfer(Transfer::new(direction, OFFSET, LEN, buffer, piece)));
        assert!(queue.has_work());
        queue.enter(true).unwrap();
        let Some(Event::Done(DeviceOperation::Transfer(transfer), Ok(()))) = queue.reap() else {
            panic!("the transfer did not come back");
        };
        assert_eq!(transfer.piece(), piece);
        transfer
    }

    #[test]
    fn reads_return_zeros_that_verify() {
        let device = device();
        let read = transfer(&device, TransferDirection::Read);
        let (data, metadata) = read.folio().unwrap().parts();
        assert_eq!(data[..LEN], [0; LEN]);
        assert_ne!(metadata[..16], [0; 16], "an unwritten tuple would be verified without its guard");
        let protection = device.info().protection.unwrap();
        protection.verify(OFFSET, 0..LEN, data, metadata).unwrap();
        protection.verify(OFFSET + 4096, 0..LEN, data, metadata).unwrap_err();
    }

    #[test]
    fn writes_are_dropped() {
        let device = device();
        let written = transfer(&device, TransferDirection::Write);
        assert_eq!(written.folio().unwrap().data()[..LEN], [0xA5; LEN]);
        assert!(device.device.media().data.iter().all(|byte| *byte == 0));
        assert!(device.device.media().tuples.iter().all(|byte| *byte == 0));
    }
}
