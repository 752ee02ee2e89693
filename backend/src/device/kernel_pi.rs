//! A block device with an integrity profile: tuples go with the data, in one request, by io_uring's
//! PI attribute.
//!
//! The device checks them for writes and reads, and the worker verifies reads again. Where the
//! metadata is opaque to the device, the tuples are our own and the worker alone verifies. After
//! submit the kernel may change the metadata of a write: on a partition it changes the reference
//! tags in place.

#![expect(unsafe_code, reason = "promises the ring that the attribute stays where it is")]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use integrity::{IntegrityProfile, PiType};
use io_uring::{cqueue, squeue};

use super::block_integrity::BlockIntegrity;
use super::pi_attribute::{self, ATTRIBUTE_SIZE, NoAttribute, PiAttribute, TagChecks, attach};
use super::pi_failure::{PiFailure, PiStatus};
use super::plain::first_step;
use super::uring::{Ring, RingEvent, RingStep, Step, transfer_entry, whole};
use super::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources, Protection, TupleRule};
use crate::device::bounce::Arena;
use crate::device::growth_error::GrowthError;
use crate::device::operation::{DeviceOperation, Transfer, TransferBuffer, TransferDirection, ZeroBy};
use crate::storage::image::Image;
use crate::storage::size::StorageSize;

/// A block device that keeps metadata.
#[derive(Debug)]
pub struct KernelPiDevice {
    image: Image,
    protection: Protection,
    checks: TagChecks,
    info: DeviceInfo,
}

impl KernelPiDevice {
    /// Serves the block device `image`, which was found to have this `integrity`.
    pub fn new(image: Image, integrity: &BlockIntegrity) -> Result<Self, NoAttribute> {
        Self::probe(&image, integrity)?;
        let BlockIntegrity { profile, rule, .. } = *integrity;
        let checks = checks_of(&profile, rule);
        let protection = Protection::device(profile, rule, "kernel-pi").with_scratch(ATTRIBUTE_SIZE);
        let info = DeviceInfo::of_image(&image, Some(protection));
        Ok(Self { image, protection, checks, info })
    }

    /// Fails unless the kernel can read `image` with its metadata. Reads it once.
    pub fn probe(image: &Image, integrity: &BlockIntegrity) -> Result<(), NoAttribute> {
        let profile = &integrity.profile;
        pi_attribute::probe(image.file(), profile.interval_size(), profile.metadata_size())
    }

    /// Writes the attribute of a transfer into its folio, behind the metadata.
    fn place_attribute(&self, transfer: &mut Transfer, checks: TagChecks) {
        let metadata_len = self.protection.metadata_len(transfer.len());
        let seed = self.protection.reference(transfer.offset());
        if let Some((_, metadata)) = transfer.parts_mut() {
            let (metadata, behind) = metadata.split_at_mut(metadata_len);
            let attribute = PiAttribute { checks, metadata: metadata.as_mut_ptr(), metadata_len, seed };
            behind[..ATTRIBUTE_SIZE].copy_from_slice(&attribute.to_bytes());
        }
    }

    /// Finds the wrong tag in a read that came back without checks after it had failed them.
    fn explain(&self, transfer: &Transfer, repeated: io::Result<()>) -> PiFailure {
        let reason = PiStatus::Unspecified;
        let TransferBuffer::Bounce(folio) = transfer.buffer() else {
            return PiFailure::Unexplained { reason };
        };
        PiFailure::of_read(reason, repeated, || {
            let (data, metadata) = folio.parts();
            self.protection.verify(transfer.offset(), 0..transfer.len(), data, metadata)
        })
    }
}

/// The tags that kernel and device are to check: all that the format has.
fn checks_of(profile: &IntegrityProfile, rule: TupleRule) -> TagChecks {
    match (rule, profile.pi_type()) {
        (TupleRule::Own, _) => TagChecks::empty(),
        (TupleRule::Standard, PiType::Type1 | PiType::Type2) => TagChecks::all(),
        (TupleRule::Standard, PiType::Type3) => TagChecks::GUARD | TagChecks::APPLICATION,
    }
}

impl BlockDevice for KernelPiDevice {
    type Queue = KernelPiQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<KernelPiQueue> {
        let ring = Ring::over(&self.image, arena, sources)?;
        Ok(KernelPiQueue { device: self.clone(), ring })
    }

    fn measure(&self) -> io::Result<StorageSize> {
        self.image.storage_size()
    }

    fn grow(&self, size: u64) -> Result<(), GrowthError> {
        self.info.capacity.grow(size);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.image.close()
    }
}

/// A step that the ring does for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PiStep {
    /// Moves data and metadata, as the attribute behind the metadata says.
    Checked { metadata_len: usize },
    /// A read that has failed its checks, repeated without them.
    Unchecked { metadata_len: usize },
    /// An operation without metadata.
    Other(Step),
}

// SAFETY: the attribute is 32 bytes behind the metadata of the folio that the transfer owns.
// `submit_transfer`, which alone makes such steps, has placed there the address and length of that
// metadata. Folios stay in place when the transfer is moved. The rest is as for `Step`.
unsafe impl RingStep for PiStep {
    type Submission = squeue::Entry;
    type Completion = cqueue::Entry;

    fn entry(&self, operation: &DeviceOperation, fixed_buffer: bool) -> squeue::Entry {
        match (self, operation) {
            (
                Self::Checked { metadata_len } | Self::Unchecked { metadata_len },
                DeviceOperation::Transfer(transfer),
            ) => {
                let folio = transfer.folio().expect("a transfer of a device with metadata has a folio");
                let attribute = &folio.metadata()[*metadata_len..];
                attach(transfer_entry(transfer, fixed_buffer), attribute.as_ptr())
            }
            (Self::Other(step), _) => step.entry(operation, fixed_buffer),
            _ => panic!("{operation:?} is no transfer"),
        }
    }

    fn outcome(&self, operation: &DeviceOperation, result: i32) -> io::Result<()> {
        whole(operation, result)
    }

    fn is_repeatable(&self, operation: &DeviceOperation) -> bool {
        // the kernel may have changed the metadata of a write
        !matches!(operation, DeviceOperation::Transfer(transfer) if transfer.direction() == TransferDirection::Write)
    }
}

/// A worker's access to the device.
#[derive(Debug)]
pub struct KernelPiQueue {
    device: Arc<KernelPiDevice>,
    ring: Ring<PiStep>,
}

impl KernelPiQueue {
    fn submit_transfer(&mut self, mut transfer: Transfer, checked: bool) {
        let metadata_len = self.device.protection.metadata_len(transfer.len());
        let (checks, step) = if checked {
            (self.device.checks, PiStep::Checked { metadata_len })
        } else {
            (TagChecks::empty(), PiStep::Unchecked { metadata_len })
        };
        self.device.place_attribute(&mut transfer, checks);
        self.ring.submit(DeviceOperation::Transfer(transfer), step);
    }

    /// The event for a transfer that came back; `None` when there is more to do for it.
    fn finish(&mut self, mut transfer: Transfer, step: PiStep, result: io::Result<()>) -> Option<Event> {
        let result = match (result, step, transfer.direction()) {
            (repeated, PiStep::Unchecked { .. }, _) => Err(self.device.explain(&transfer, repeated).into()),
            (Err(error), _, TransferDirection::Write) if is_to_repeat(&error) => {
                match self.regenerate(&mut transfer) {
                    Ok(()) => {
                        self.submit_transfer(transfer, true);
                        return None;
                    }
                    Err(error) => Err(error),
                }
            }
            (Err(error), _, direction) => match (PiStatus::of_error(&error), direction) {
                (None, _) => Err(error),
                (Some(reason), TransferDirection::Write) => {
                    Err(PiFailure::of_write(reason, transfer.buffer()).into())
                }
                (Some(_), TransferDirection::Read) => {
                    self.submit_transfer(transfer, false);
                    return None;
                }
            },
            (Ok(()), ..) => Ok(()),
        };
        Some(Event::Done(DeviceOperation::Transfer(transfer), result))
    }

    fn regenerate(&self, transfer: &mut Transfer) -> io::Result<()> {
        let (offset, len) = (transfer.offset(), transfer.len());
        let (data, metadata) = transfer.parts_mut().ok_or(io::ErrorKind::InvalidInput)?;
        self.device.protection.generate(offset, 0..len, data, metadata).map_err(io::Error::other)
    }
}

/// Whether the kernel asks to repeat the request.
fn is_to_repeat(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR))
}

/// The step that replaces one which the device turned out not to support: the kernel learns by
/// trying whether a SCSI disk can punch holes.
fn instead(step: PiStep, result: &io::Result<()>) -> Option<Step> {
    let unsupported = result.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP));
    match step {
        PiStep::Other(Step::Fallocate { offset, len, by: ZeroBy::PunchHole }) if unsupported => {
            Some(Step::Fallocate { offset, len, by: ZeroBy::ZeroRange })
        }
        _ => None,
    }
}

impl DeviceQueue for KernelPiQueue {
    fn submit(&mut self, operation: DeviceOperation) {
        match operation {
            DeviceOperation::Transfer(transfer) => self.submit_transfer(transfer, true),
            other => {
                let step = PiStep::Other(first_step(&other));
                self.ring.submit(other, step);
            }
        }
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        self.ring.enter(wait)
    }

    fn enter_for(&mut self, limit: Duration) -> io::Result<()> {
        self.ring.enter_for(limit)
    }

    fn has_work(&mut self) -> bool {
        self.ring.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        loop {
            match self.ring.reap()? {
                RingEvent::Kick => return Some(Event::Kick),
                RingEvent::Wake => return Some(Event::Wake),
                RingEvent::Done(DeviceOperation::Transfer(transfer), step, result) => {
                    if let Some(event) = self.finish(transfer, step, result) {
                        return Some(event);
                    }
                }
                RingEvent::Done(operation, step, result) => match instead(step, &result) {
                    Some(step) => self.ring.submit(operation, PiStep::Other(step)),
                    None => return Some(Event::Done(operation, result)),
                },
            }
        }
    }
}
