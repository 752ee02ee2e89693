//! From descriptors to buffers: follows a chain once and keeps a private copy of what it says.

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::descriptor::{Descriptor, DescriptorFlags};
use crate::malformed::MalformedReason;
use crate::pending::PendingChain;
use crate::segments::{self, Segment};

/// Descriptors in a chain, even on a ring that has fewer: Windows sends 515 whatever `seg_max` and
/// the ring say.
const DESCRIPTORS_MIN: usize = 1024;
/// Bytes in a chain (virtio 1.2, 2.7.5); it makes a used length fit its 32 bits.
const CHAIN_LEN_MAX: u64 = 1 << 32;

/// A popped chain, to be given to [`Request::parse`](crate::Request::parse).
///
/// It borrows the ring's scratch space, so that popping allocates nothing.
#[derive(Debug)]
pub struct Chain<'ring> {
    pub(crate) pending: PendingChain,
    /// The buffers, or the reason why the chain breaks off.
    pub(crate) buffers: Result<&'ring Buffers, MalformedReason>,
}

impl Chain<'_> {
    /// Index of the chain's first descriptor.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.pending.head()
    }
}

/// The buffers of one chain, as two streams of bytes.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    readable: Stream,
    writable: Stream,
    descriptors: usize,
    fault: Option<MalformedReason>,
}

/// Buffers of one direction, in descriptor order.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) segments: Vec<Segment>,
    pub(crate) len: u64,
}

impl Buffers {
    /// The bytes that the driver wrote for the device.
    pub(crate) fn readable(&self) -> &Stream {
        &self.readable
    }

    /// The bytes that the device may write; the last one is the status.
    pub(crate) fn writable(&self) -> &Stream {
        &self.writable
    }

    /// A rule that the chain breaks although all its descriptors could be followed.
    pub(crate) fn fault(&self) -> Option<MalformedReason> {
        self.fault
    }

    fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
        self.descriptors = 0;
        self.fault = None;
    }

    fn push(&mut self, descriptor: Descriptor) {
        let segment = Segment { address: GuestAddress(descriptor.address), len: descriptor.len };
        if descriptor.flags.contains(DescriptorFlags::WRITE) {
            self.writable.push(segment);
        } else if self.writable.segments.is_empty() {
            self.readable.push(segment);
        } else {
            self.record(MalformedReason::ReadableAfterWritable);
        }
        if self.readable.len + self.writable.len > CHAIN_LEN_MAX {
            self.record(MalformedReason::TooManyBytes);
        }
    }

    /// The first fault is the cause, later ones may be its consequence.
    fn record(&mut self, fault: MalformedReason) {
        self.fault.get_or_insert(fault);
    }

    /// Takes the descriptors of one table from `first` on, up to the chain's end or the indirect
    /// descriptor that ends this table's part of it.
    fn follow(
        &mut self,
        first: u16,
        entries: usize,
        descriptors_max: usize,
        read: impl Fn(usize) -> Option<Descriptor>,
    ) -> Result<Option<Descriptor>, MalformedReason> {
        let mut index = first;
        for _ in 0..entries {
            let descriptor =
                read(usize::from(index)).ok_or(MalformedReason::NextOutOfRange { next: index })?;
            if descriptor.flags.contains(DescriptorFlags::INDIRECT) {
                return Ok(Some(descriptor));
            }
            if self.descriptors == descriptors_max {
                return Err(MalformedReason::TooManyDescriptors);
            }
            self.descriptors += 1;
            self.push(descriptor);
            if !descriptor.flags.contains(DescriptorFlags::NEXT) {
                return Ok(None);
            }
            index = descriptor.next;
        }
        // after as many steps as there are entries, one that exists was visited before
        let exists = usize::from(index) < entries;
        Err(if exists { MalformedReason::Loop } else { MalformedReason::NextOutOfRange { next: index } })
    }
}

impl Stream {
    /// The segment with the last byte.
    pub(crate) fn last(&self) -> Option<Segment> {
        self.segments.iter().copied().rfind(|segment| segment.len > 0)
    }

    fn clear(&mut self) {
        self.segments.clear();
        self.len = 0;
    }

    fn push(&mut self, segment: Segment) {
        self.segments.push(segment);
        self.len += u64::from(segment.len);
    }
}

/// Follows chains, with the space that takes: reserved once, as large as the longest chain.
#[derive(Debug)]
pub(crate) struct ChainWalker {
    buffers: Buffers,
    /// Private copy of an indirect table.
    table: Box<[u8]>,
    indirect: bool,
}

impl ChainWalker {
    /// `indirect`: whether `VIRTIO_F_INDIRECT_DESC` was negotiated.
    pub(crate) fn new(ring_size: u16, indirect: bool) -> Self {
        let descriptors_max = usize::from(ring_size).max(DESCRIPTORS_MIN);
        Self {
            buffers: Buffers::default(),
            table: vec![0; descriptors_max * Descriptor::SIZE].into_boxed_slice(),
            indirect,
        }
    }

    /// Follows the chain that starts at `head` of the ring's descriptor table.
    pub(crate) fn walk<M: GuestMemoryBackend, B: BitmapSlice>(
        &mut self,
        mem: &M,
        ring_table: &VolatileSlice<'_, B>,
        head: u16,
    ) -> Result<&Buffers, MalformedReason> {
        let entries = ring_table.len() / Descriptor::SIZE;
        let descriptors_max = self.table.len() / Descriptor::SIZE;
        self.buffers.clear();
        let end = self
            .buffers
            .follow(head, entries, descriptors_max, |index| read_descriptor(ring_table, index))?;
        if let Some(indirect) = end {
            self.walk_indirect(mem, indirect)?;
        }
        Ok(&self.buffers)
    }

    fn walk_indirect<M: GuestMemoryBackend>(
        &mut self,
        mem: &M,
        descriptor: Descriptor,
    ) -> Result<(), MalformedReason> {
        let segment = self.check_indirect(descriptor)?;
        let table = &mut self.table[..segment.len as usize];
        segments::copy_to(mem, &[segment], 0, table)
            .map_err(|_| MalformedReason::IndirectTableOutsideMemory(segment))?;

        let descriptors_max = self.table.len() / Descriptor::SIZE;
        let (table, _) = self.table[..segment.len as usize].as_chunks();
        let read = |index| table.get(index).copied().map(Descriptor::from_bytes);
        match self.buffers.follow(0, table.len(), descriptors_max, read)? {
            None => Ok(()),
            Some(_) => Err(MalformedReason::NestedIndirect),
        }
    }

    /// The place of the indirect table. Its write flag is ignored (virtio 1.2, 2.7.5.3.2).
    fn check_indirect(&self, descriptor: Descriptor) -> Result<Segment, MalformedReason> {
        let segment = Segment { address: GuestAddress(descriptor.address), len: descriptor.len };
        let len = descriptor.len as usize;
        if !self.indirect {
            Err(MalformedReason::IndirectNotNegotiated)
        } else if descriptor.flags.contains(DescriptorFlags::NEXT) {
            Err(MalformedReason::IndirectWithNext)
        } else if len == 0 || !len.is_multiple_of(Descriptor::SIZE) {
            Err(MalformedReason::IndirectTableLength { len: descriptor.len })
        } else if len > self.table.len() {
            Err(MalformedReason::TooManyDescriptors)
        } else {
            Ok(segment)
        }
    }
}

/// Reads a descriptor of the ring's own table, once; `None` past its end.
fn read_descriptor<B: BitmapSlice>(table: &VolatileSlice<'_, B>, index: usize) -> Option<Descriptor> {
    let entry = table.subslice(index * Descriptor::SIZE, Descriptor::SIZE).ok()?;
    let mut bytes = [0; Descriptor::SIZE];
    entry.copy_to(&mut bytes);
    Some(Descriptor::from_bytes(bytes))
}
