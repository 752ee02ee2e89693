//! A namespace served by commands of our own, with metadata separate from the data or interleaved
//! with it.
//!
//! The kernel passes commands on as they are: it checks no range and no length, and remaps no tag.
//! So ranges and lengths are checked here.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use integrity::PiType;

use super::command::{NvmeCommand, TagFields, dataset_range};
use super::format::NamespaceFormat;
use super::namespace::Namespace;
use super::status::NvmeStatus;
use super::step::{CommandBuffer, Kind, NvmeStep};
use crate::device::bounce::{Arena, FOLIO_SIZE_MIN};
use crate::device::growth_error::GrowthError;
use crate::device::operation::{DeviceOperation, Transfer, TransferBuffer, TransferDirection, ZeroBy};
use crate::device::pi_failure::{PiFailure, PiStatus};
use crate::device::uring::{Ring, RingEvent};
use crate::device::{
    BlockDevice, Capacity, Damage, DeviceInfo, DeviceQueue, Event, EventSources, Protection, TupleRule,
    Zeroing,
};
use crate::storage::size::StorageSize;

/// Guest memory is never aligned to this: where metadata is interleaved, the data is copied anyway.
const NEVER_ALIGNED: usize = 1 << 63;

/// A namespace with metadata.
#[derive(Debug)]
pub struct NvmePassthroughDevice {
    namespace: Namespace,
    protection: Protection,
    info: DeviceInfo,
}

impl NvmePassthroughDevice {
    /// Serves `namespace`.
    pub fn new(namespace: Namespace) -> Self {
        let format = *namespace.format();
        let block_size = format.block_size;
        let wire_size = block_size + format.profile.metadata_size();
        let scratch = if format.extended { FOLIO_SIZE_MIN.div_ceil(block_size) * wire_size } else { 0 };
        let protection =
            Protection::device(format.profile, format.rule, "nvme-passthrough").with_scratch(scratch);
        let info = DeviceInfo {
            capacity: Capacity::new(namespace.capacity()),
            granule: block_size,
            transfer_max: namespace.transfer_max(),
            memory_alignment: if format.extended { NEVER_ALIGNED } else { block_size },
            protection: Some(protection),
            zeroing: zeroing(&namespace),
            zeroing_max: u64::MAX,
            durability: namespace.durability().clone(),
            damage: Damage::default(),
        };
        Self { namespace, protection, info }
    }

    /// The tags that the controller is to check for blocks from byte `offset` on, and their values:
    /// all that the format has.
    fn tags(&self, offset: u64) -> TagFields {
        if self.protection.rule() == TupleRule::Own {
            return TagFields::NONE;
        }
        let reference = self.protection.profile().pi_type() != PiType::Type3;
        let initial_reference = self.protection.reference(offset);
        TagFields { guard: true, application: true, reference, initial_reference }
    }

    /// The first block and the number of blocks of `len` bytes at `offset`, at most one command's.
    fn blocks(&self, offset: u64, len: u64) -> io::Result<(u64, u32)> {
        let block_size = self.info.granule as u64;
        let whole = offset.is_multiple_of(block_size) && len.is_multiple_of(block_size) && len > 0;
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.info.capacity.get());
        match u32::try_from(len / block_size) {
            Ok(blocks) if whole && inside => Ok((offset / block_size, blocks)),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// The command for a transfer.
    fn transfer_step(
        &self,
        transfer: &mut Transfer,
        checked: bool,
        registered: bool,
    ) -> io::Result<NvmeStep> {
        let (lba, blocks) = self.blocks(transfer.offset(), transfer.len() as u64)?;
        let tags = if checked { self.tags(transfer.offset()) } else { TagFields::NONE };
        let nsid = self.namespace.nsid;
        let command = match transfer.direction() {
            TransferDirection::Read => NvmeCommand::read(nsid, lba, blocks, tags),
            TransferDirection::Write => NvmeCommand::write(nsid, lba, blocks, tags),
        };
        let metadata_len = self.protection.metadata_len(transfer.len());
        let buffer = if self.namespace.format().extended {
            self.interleave(transfer)?;
            CommandBuffer::Interleaved { metadata_len }
        } else {
            let folio = transfer.folio().ok_or(io::ErrorKind::InvalidInput)?;
            if folio.metadata().len() < metadata_len {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            match transfer.buffer() {
                TransferBuffer::Bounce(_) => CommandBuffer::Folio { registered, metadata_len },
                TransferBuffer::Guest(..) => CommandBuffer::Vectors { metadata_len },
            }
        };
        Ok(NvmeStep { command, buffer, kind: Kind::Transfer })
    }

    /// Lays data and metadata of a write out interleaved, behind its metadata. Refuses a transfer
    /// that has no room for that.
    fn interleave(&self, transfer: &mut Transfer) -> io::Result<()> {
        let (len, direction) = (transfer.len(), transfer.direction());
        let (block_size, metadata_size) = (self.info.granule, self.protection.profile().metadata_size());
        let metadata_len = self.protection.metadata_len(len);
        let (data, metadata) = transfer.parts_mut().ok_or(io::ErrorKind::InvalidInput)?;
        let (metadata, behind) = metadata.split_at_mut(metadata_len);
        let wire = behind.get_mut(..len + metadata_len).ok_or(io::ErrorKind::InvalidInput)?;
        if direction == TransferDirection::Write {
            let blocks = data.chunks_exact(block_size).zip(metadata.chunks_exact(metadata_size));
            for (wire, (data, metadata)) in wire.chunks_exact_mut(block_size + metadata_size).zip(blocks) {
                wire[..block_size].copy_from_slice(data);
                wire[block_size..].copy_from_slice(metadata);
            }
        }
        Ok(())
    }

    /// Separates the data and metadata that a read has brought in interleaved.
    fn deinterleave(&self, transfer: &mut Transfer) {
        let (block_size, metadata_size) = (self.info.granule, self.protection.profile().metadata_size());
        let len = transfer.len();
        let metadata_len = self.protection.metadata_len(len);
        let Some((data, metadata)) = transfer.parts_mut() else { return };
        let (metadata, scratch) = metadata.split_at_mut(metadata_len);
        let blocks = data[..len].chunks_exact_mut(block_size).zip(metadata.chunks_exact_mut(metadata_size));
        for (wire, (data, metadata)) in scratch.chunks_exact(block_size + metadata_size).zip(blocks) {
            data.copy_from_slice(&wire[..block_size]);
            metadata.copy_from_slice(&wire[block_size..]);
        }
    }

    /// The next command that makes `len` bytes at `offset` zeros, of which `done` are; how many it
    /// does.
    fn zero_step(&self, offset: u64, len: u64, by: ZeroBy, done: u64) -> io::Result<NvmeStep> {
        let nsid = self.namespace.nsid;
        if by == ZeroBy::Deallocate {
            let (lba, blocks) = self.blocks(offset, len)?;
            let command = NvmeCommand::deallocate(nsid);
            // on the heap, so that it stays where it is when the step is moved
            let buffer = CommandBuffer::Range(Box::new(dataset_range(lba, blocks)));
            return Ok(NvmeStep { command, buffer, kind: Kind::Zero { done: len } });
        }
        let (offset, len) = (offset + done, (len - done).min(self.info.transfer_max as u64));
        let (lba, blocks) = self.blocks(offset, len)?;
        let generated = self.protection.rule() == TupleRule::Standard;
        let reference = generated.then(|| self.protection.reference(offset));
        let command = NvmeCommand::write_zeroes(nsid, lba, blocks, by == ZeroBy::PunchHole, reference);
        Ok(NvmeStep { command, buffer: CommandBuffer::None, kind: Kind::Zero { done: done + len } })
    }

    /// Finds the wrong tag in a read that came back without checks after it had failed them.
    fn explain(&self, transfer: &Transfer, reason: PiStatus, repeated: io::Result<()>) -> PiFailure {
        let TransferBuffer::Bounce(folio) = transfer.buffer() else {
            return PiFailure::Unexplained { reason };
        };
        PiFailure::of_read(reason, repeated, || {
            let (data, metadata) = folio.parts();
            self.protection.verify(transfer.offset(), 0..transfer.len(), data, metadata)
        })
    }
}

fn zeroing(namespace: &Namespace) -> Zeroing {
    let NamespaceFormat { profile, rule, .. } = namespace.format();
    let is_own = *rule == TupleRule::Own;
    // QEMU's controller leaves the metadata before the tuple out of the guard that it generates
    let bare = profile.metadata_size() == profile.tuple_size();
    let write_zeroes = namespace.has_write_zeroes && (bare || is_own);
    Zeroing {
        punch_hole: write_zeroes,
        zero_range: write_zeroes,
        // after it the controller may return any data and metadata, which need not match by our own
        // rule
        deallocate: namespace.has_dataset_management && !is_own,
    }
}

impl BlockDevice for NvmePassthroughDevice {
    type Queue = NvmePassthroughQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(
        self: &Arc<Self>,
        arena: &Arena,
        sources: EventSources<'_>,
    ) -> io::Result<NvmePassthroughQueue> {
        let ring = Ring::new(arena, &[self.namespace.file().as_fd()], &self.info.durability, sources)?;
        Ok(NvmePassthroughQueue { device: self.clone(), ring, registered: true, refused: Vec::new() })
    }

    fn measure(&self) -> io::Result<StorageSize> {
        Ok(StorageSize { bytes: self.namespace.measure()?, is_extensible: false })
    }

    fn grow(&self, size: u64) -> Result<(), GrowthError> {
        self.info.capacity.grow(size);
        Ok(())
    }

    /// Flushes once more: a driver need not have flushed all that it has written.
    fn close(&self) -> io::Result<()> {
        self.info.durability.close(self.namespace.flush())
    }
}

/// A worker's access to the namespace.
#[derive(Debug)]
pub struct NvmePassthroughQueue {
    device: Arc<NvmePassthroughDevice>,
    ring: Ring<NvmeStep>,
    /// Whether commands can name folios as the ring has registered them. Linux 6.1 refuses parts of
    /// so large a buffer.
    registered: bool,
    /// Operations that have failed our own checks.
    refused: Vec<Event>,
}

impl NvmePassthroughQueue {
    fn start(&mut self, operation: DeviceOperation, step: io::Result<NvmeStep>) {
        match step {
            Ok(step) => self.ring.submit(operation, step),
            Err(error) => self.refused.push(Event::Done(operation, Err(error))),
        }
    }

    /// The event for a command that came back; `None` when there is more to do for its operation.
    fn finish(
        &mut self,
        operation: DeviceOperation,
        step: NvmeStep,
        result: io::Result<()>,
    ) -> Option<Event> {
        let NvmeStep { command, buffer, kind } = step;
        if let CommandBuffer::Folio { registered: true, metadata_len } = buffer
            && is_invalid_argument(&result)
        {
            self.registered = false;
            let buffer = CommandBuffer::Folio { registered: false, metadata_len };
            self.ring.submit(operation, NvmeStep { command, buffer, kind });
            return None;
        }
        match (operation, kind) {
            (DeviceOperation::Zero { offset, len, by, request }, Kind::Zero { done })
                if done < len && result.is_ok() =>
            {
                let step = self.device.zero_step(offset, len, by, done);
                self.start(DeviceOperation::Zero { offset, len, by, request }, step);
                None
            }
            (DeviceOperation::Transfer(transfer), _) => self.finish_transfer(transfer, kind, result),
            (operation, _) => Some(Event::Done(operation, result)),
        }
    }

    fn finish_transfer(
        &mut self,
        mut transfer: Transfer,
        kind: Kind,
        result: io::Result<()>,
    ) -> Option<Event> {
        let is_read = transfer.direction() == TransferDirection::Read;
        if is_read && self.device.namespace.format().extended && result.is_ok() {
            self.device.deinterleave(&mut transfer);
        }
        let result = match (result, kind) {
            (repeated, Kind::Repeated(reason)) => {
                Err(self.device.explain(&transfer, reason, repeated).into())
            }
            (Err(error), _) => match NvmeStatus::in_error(&error).and_then(NvmeStatus::of_tags) {
                None => Err(error),
                Some(reason) if is_read => {
                    let step = self.device.transfer_step(&mut transfer, false, self.registered);
                    let step = step.map(|step| NvmeStep { kind: Kind::Repeated(reason), ..step });
                    self.start(DeviceOperation::Transfer(transfer), step);
                    return None;
                }
                Some(reason) => Err(PiFailure::of_write(reason, transfer.buffer()).into()),
            },
            (Ok(()), _) => Ok(()),
        };
        Some(Event::Done(DeviceOperation::Transfer(transfer), result))
    }
}

fn is_invalid_argument(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

impl DeviceQueue for NvmePassthroughQueue {
    fn submit(&mut self, mut operation: DeviceOperation) {
        let step = match &mut operation {
            DeviceOperation::Transfer(transfer) => self.device.transfer_step(transfer, true, self.registered),
            DeviceOperation::Zero { offset, len, by, .. } => self.device.zero_step(*offset, *len, *by, 0),
            DeviceOperation::Flush { .. } => {
                let command = NvmeCommand::flush(self.device.namespace.nsid);
                Ok(NvmeStep { command, buffer: CommandBuffer::None, kind: Kind::Flush })
            }
        };
        self.start(operation, step);
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        self.ring.enter(wait && self.refused.is_empty())
    }

    fn enter_for(&mut self, limit: Duration) -> io::Result<()> {
        if self.refused.is_empty() { self.ring.enter_for(limit) } else { self.ring.enter(false) }
    }

    fn has_work(&mut self) -> bool {
        !self.refused.is_empty() || self.ring.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.refused.pop() {
                return Some(event);
            }
            match self.ring.reap()? {
                RingEvent::Kick => return Some(Event::Kick),
                RingEvent::Wake => return Some(Event::Wake),
                RingEvent::Done(operation, step, result) => {
                    if let Some(event) = self.finish(operation, step, result) {
                        return Some(event);
                    }
                }
            }
        }
    }
}
