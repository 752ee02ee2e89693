//! The device's side of a split ring (virtio 1.2, 2.7).

use std::sync::atomic::{Ordering, fence};

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryError};

use crate::area::{FLAGS_OFFSET, IDX_OFFSET, MappedArea, RingAddresses, RingArea, RingLayout};
use crate::chain::{Chain, ChainWalker};
use crate::config::Features;
use crate::pending::PendingChain;

/// The largest split ring (virtio 1.2, 2.7).
const RING_SIZE_MAX: u16 = 32768;
/// `VIRTQ_AVAIL_F_NO_INTERRUPT`: a driver without `EVENT_IDX` asks for no interrupts.
pub(crate) const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// `VIRTQ_USED_F_NO_NOTIFY`: a device without `EVENT_IDX` asks for no notifications.
pub(crate) const USED_F_NO_NOTIFY: u16 = 1;

/// The ring itself is broken, so that nothing more can be learned from it: its queue is to be
/// retired.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The size is no power of two up to 32768.
    #[error("ring size {size} is not a power of two up to {RING_SIZE_MAX}")]
    Size {
        /// The size asked for.
        size: u16,
    },
    /// An area breaks the alignment of virtio 1.2, 2.7.
    #[error("{area} at {:#x} is not aligned to {alignment} bytes", .address.0)]
    Misaligned {
        /// The area.
        area: RingArea,
        /// The address of the area.
        address: GuestAddress,
        /// The alignment it needs, in bytes.
        alignment: u64,
    },
    /// An area does not, or no longer, lie in one region of guest memory.
    #[error("{area} at {:#x} is not in guest memory", .address.0)]
    OutsideMemory {
        /// The area.
        area: RingArea,
        /// The address of the area.
        address: GuestAddress,
        /// The error of the memory.
        #[source]
        source: GuestMemoryError,
    },
    /// The driver claims to have made more chains available than the ring has entries.
    #[error("available index {available} is more than the ring's {size} entries past {next}")]
    AvailableIndex {
        /// The driver's index.
        available: u16,
        /// The device's index.
        next: u16,
        /// The ring's size.
        size: u16,
    },
    /// An available entry is no index into the descriptor table.
    #[error("head index {head} is not below the ring's size {size}")]
    HeadOutOfRange {
        /// The entry.
        head: u16,
        /// The ring's size.
        size: u16,
    },
    /// An available entry names a chain that the device still has.
    #[error("head index {head} was made available again before its chain was returned")]
    HeadInUse {
        /// The entry.
        head: u16,
    },
}

/// A split ring, owned by the one worker that serves it.
///
/// It caches the driver's available index, reading it again only when all chains known so far were
/// popped, and it publishes completions in batches. Guest memory is lent to each call, so that the
/// memory map may change between them.
#[derive(Debug)]
pub struct SplitRing {
    layout: RingLayout,
    walker: ChainWalker,
    /// Index of the next available entry to pop.
    next_avail: u16,
    /// The driver's available index when last read.
    available: u16,
    /// Index of the next used entry to publish.
    next_used: u16,
    /// The owner of the chain that starts at each descriptor.
    owners: Box<[Owner]>,
    outstanding: u16,
    /// Never more than the ring's size: a head is not popped again before it is published.
    completed: Vec<UsedElement>,
    interrupt_owed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Driver,
    /// Popped.
    Device,
    /// Completed, which the driver cannot know before it is published.
    Completed,
}

#[derive(Clone, Copy, Debug)]
struct UsedElement {
    head: u16,
    len: u32,
}

impl SplitRing {
    /// Takes over a ring of `size` entries at `addresses`.
    ///
    /// Of `features`, those negotiated, [`EVENT_IDX`](Features::EVENT_IDX) and
    /// [`INDIRECT_DESC`](Features::INDIRECT_DESC) are the ring's. `next_avail` is the index of the
    /// first available entry to pop; the used index is read from the ring.
    ///
    /// # Errors
    ///
    /// [`RingError::Size`], [`RingError::Misaligned`] or [`RingError::OutsideMemory`].
    pub fn new<M: GuestMemoryBackend>(
        mem: &M,
        size: u16,
        addresses: RingAddresses,
        features: Features,
        next_avail: u16,
    ) -> Result<Self, RingError> {
        if !size.is_power_of_two() || size > RING_SIZE_MAX {
            return Err(RingError::Size { size });
        }
        let layout = RingLayout { size, addresses, event_idx: features.contains(Features::EVENT_IDX) };
        layout.check(mem)?;
        let next_used = layout.map(mem, RingArea::UsedRing)?.load(IDX_OFFSET, Ordering::Acquire)?;
        Ok(Self {
            layout,
            walker: ChainWalker::new(size, features.contains(Features::INDIRECT_DESC)),
            next_avail,
            available: next_avail,
            next_used,
            owners: vec![Owner::Driver; usize::from(size)].into_boxed_slice(),
            outstanding: 0,
            completed: Vec::with_capacity(usize::from(size)),
            // a predecessor may have died between its last used index and the interrupt for it
            interrupt_owed: true,
        })
    }

    /// Number of entries.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.layout.size
    }

    /// Index of the next available entry to pop, modulo 2^16: the vring base once nothing is
    /// outstanding.
    #[must_use]
    pub fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// Index of the next used entry to publish, modulo 2^16.
    #[must_use]
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Length of the used ring, in bytes.
    #[must_use]
    pub fn used_ring_len(&self) -> usize {
        self.layout.used_ring_len()
    }

    /// Number of chains popped and not yet completed.
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// Continues behind the `in_flight` chains that a predecessor popped and did not return, each
    /// of which [`resume`](Self::resume) takes: the next available entry to pop is that many behind
    /// the used index, since every chain popped is either used or in flight. For a ring of which
    /// nothing was popped yet.
    pub fn start_behind(&mut self, in_flight: u16) {
        self.next_avail = self.next_used.wrapping_add(in_flight);
        self.available = self.next_avail;
    }

    /// Takes the next available chain, if there is one.
    ///
    /// An error within the chain is found by [`Request::parse`](crate::Request::parse), which
    /// gives the chain back so that it can be answered.
    ///
    /// # Errors
    ///
    /// [`RingError::AvailableIndex`], [`RingError::HeadOutOfRange`], [`RingError::HeadInUse`] or
    /// [`RingError::OutsideMemory`]. Nothing was popped then.
    pub fn pop<M: GuestMemoryBackend>(&mut self, mem: &M) -> Result<Option<Chain<'_>>, RingError> {
        let available_ring = self.layout.map(mem, RingArea::AvailableRing)?;
        if self.next_avail == self.available && !self.refresh_available(&available_ring)? {
            return Ok(None);
        }
        let entry = self.layout.available_entry(self.next_avail);
        let head = available_ring.load(entry, Ordering::Relaxed)?;
        let table = self.layout.map(mem, RingArea::DescriptorTable)?;
        self.claim(head)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(self.walk(mem, &table, head)))
    }

    /// Whether there is a chain to pop.
    ///
    /// # Errors
    ///
    /// [`RingError::AvailableIndex`] or [`RingError::OutsideMemory`].
    pub fn has_available<M: GuestMemoryBackend>(&mut self, mem: &M) -> Result<bool, RingError> {
        if self.next_avail != self.available {
            return Ok(true);
        }
        let available_ring = self.layout.map(mem, RingArea::AvailableRing)?;
        self.refresh_available(&available_ring)
    }

    /// Takes the chain at `head` whose available entry was popped before: by a predecessor that
    /// died before it returned the chain, as the in-flight region shows.
    ///
    /// # Errors
    ///
    /// [`RingError::HeadOutOfRange`], [`RingError::HeadInUse`] or [`RingError::OutsideMemory`].
    pub fn resume<M: GuestMemoryBackend>(&mut self, mem: &M, head: u16) -> Result<Chain<'_>, RingError> {
        let table = self.layout.map(mem, RingArea::DescriptorTable)?;
        self.claim(head)?;
        Ok(self.walk(mem, &table, head))
    }

    /// Suppresses the driver's notifications, since the device looks at the ring by itself.
    ///
    /// This is a hint, so a failure to write it is not reported: a ring that left guest memory
    /// shows at the next [`pop`](Self::pop). With `EVENT_IDX` there is nothing to write: the event
    /// index lies behind.
    pub fn disable_notifications<M: GuestMemoryBackend>(&mut self, mem: &M) {
        if !self.layout.event_idx
            && let Ok(used_ring) = self.layout.map(mem, RingArea::UsedRing)
        {
            let _ = used_ring.store(FLAGS_OFFSET, USED_F_NO_NOTIFY, Ordering::Relaxed);
        }
    }

    /// Asks the driver to notify from the next chain on. Returns whether chains came in already,
    /// for which no notification may come: the caller continues to pop then.
    ///
    /// # Errors
    ///
    /// [`RingError::AvailableIndex`] or [`RingError::OutsideMemory`].
    pub fn enable_notifications<M: GuestMemoryBackend>(&mut self, mem: &M) -> Result<bool, RingError> {
        let used_ring = self.layout.map(mem, RingArea::UsedRing)?;
        if self.layout.event_idx {
            used_ring.store(self.layout.avail_event(), self.next_avail, Ordering::Relaxed)?;
        } else {
            used_ring.store(FLAGS_OFFSET, 0, Ordering::Relaxed)?;
        }
        // the driver stores its index, then reads the above: at least one side must see the other's
        // store
        fence(Ordering::SeqCst);
        self.refresh_available(&self.layout.map(mem, RingArea::AvailableRing)?)
    }

    /// The heads of the chains that the next [`publish`](Self::publish) shows to the driver, in
    /// that order.
    pub fn completed_heads(&self) -> impl Iterator<Item = u16> {
        self.completed.iter().map(|element| element.head)
    }

    /// Makes all completions since the last call visible to the driver with one store of the used
    /// index. Returns whether the driver wants an interrupt for them. To be called once a batch.
    ///
    /// With `EVENT_IDX` the first batch is always interrupted for: a predecessor may have published
    /// and died before it interrupted, and its used index is the start of our first batch.
    ///
    /// # Errors
    ///
    /// [`RingError::OutsideMemory`]
    pub fn publish<M: GuestMemoryBackend>(&mut self, mem: &M) -> Result<bool, RingError> {
        if self.completed.is_empty() {
            return Ok(false);
        }
        let used_ring = self.layout.map(mem, RingArea::UsedRing)?;
        let old = self.next_used;
        for UsedElement { head, len } in self.completed.drain(..) {
            used_ring.store_used_element(self.layout.used_entry(self.next_used), head, len)?;
            self.owners[usize::from(head)] = Owner::Driver;
            self.next_used = self.next_used.wrapping_add(1);
        }
        used_ring.store(IDX_OFFSET, self.next_used, Ordering::Release)?;
        // the driver stores its event index or flag, then reads the used index: one side must see
        // the other's store
        fence(Ordering::SeqCst);
        self.wants_interrupt(mem, old)
    }

    /// Keeps a completion for the next [`publish`](Self::publish).
    pub(crate) fn push_used(&mut self, head: u16, len: u32) {
        let owner = self.owners.get_mut(usize::from(head)).filter(|owner| **owner == Owner::Device);
        debug_assert!(owner.is_some(), "chain {head} was popped from another ring");
        if let Some(owner) = owner {
            *owner = Owner::Completed;
            self.outstanding -= 1;
            self.completed.push(UsedElement { head, len });
        }
    }

    /// Reads the driver's available index. Returns whether there are chains to pop.
    fn refresh_available<B: BitmapSlice>(&mut self, ring: &MappedArea<'_, B>) -> Result<bool, RingError> {
        // acquire: entries and descriptors are read after the index that covers them
        let available = ring.load(IDX_OFFSET, Ordering::Acquire)?;
        if available.wrapping_sub(self.next_avail) > self.layout.size {
            return Err(RingError::AvailableIndex {
                available,
                next: self.next_avail,
                size: self.layout.size,
            });
        }
        self.available = available;
        Ok(available != self.next_avail)
    }

    /// Takes `head` from the driver.
    fn claim(&mut self, head: u16) -> Result<(), RingError> {
        match self.owners.get_mut(usize::from(head)) {
            None => Err(RingError::HeadOutOfRange { head, size: self.layout.size }),
            Some(owner) if *owner != Owner::Driver => Err(RingError::HeadInUse { head }),
            Some(owner) => {
                *owner = Owner::Device;
                self.outstanding += 1;
                Ok(())
            }
        }
    }

    /// Follows the chain at a claimed `head`.
    fn walk<M: GuestMemoryBackend, B: BitmapSlice>(
        &mut self,
        mem: &M,
        table: &MappedArea<'_, B>,
        head: u16,
    ) -> Chain<'_> {
        Chain { pending: PendingChain::new(head), buffers: self.walker.walk(mem, table.as_slice(), head) }
    }

    /// Whether the driver wants an interrupt for the used entries from `old` on (virtio 1.2,
    /// 2.7.7).
    fn wants_interrupt<M: GuestMemoryBackend>(&mut self, mem: &M, old: u16) -> Result<bool, RingError> {
        let available_ring = self.layout.map(mem, RingArea::AvailableRing)?;
        if !self.layout.event_idx {
            let flags = available_ring.load(FLAGS_OFFSET, Ordering::Relaxed)?;
            return Ok(flags & AVAIL_F_NO_INTERRUPT == 0);
        }
        let used_event = available_ring.load(self.layout.used_event(), Ordering::Relaxed)?;
        let owed = std::mem::take(&mut self.interrupt_owed);
        Ok(owed || passes_event(used_event, self.next_used, old))
    }
}

/// Whether an index that went from `old` to `new` passed `event`, all modulo 2^16:
/// `vring_need_event` of virtio 1.2, appendix A.
fn passes_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
