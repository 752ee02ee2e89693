//! The driver's side of a split ring, to test a device with (feature `test-utils`).
//!
//! It follows its calls and checks nothing, so that tests can lay out what no driver should. It
//! panics where guest memory is missing: that is a mistake of the test.
#![expect(clippy::missing_panics_doc, reason = "said once, above, for the whole module")]

use std::ops::Deref;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::area::{FLAGS_OFFSET, IDX_OFFSET, RingAddresses, RingLayout};
use crate::config::Features;
use crate::descriptor::{Descriptor, DescriptorFlags};
use crate::ring::{AVAIL_F_NO_INTERRUPT, RingError, SplitRing, USED_F_NO_NOTIFY};

/// A buffer that a chain is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainBuffer {
    /// The address of its first byte.
    pub address: GuestAddress,
    /// The length in bytes.
    pub len: u32,
    /// Whether the device reads or writes it.
    pub access: DeviceAccess,
}

/// The device's access to a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceAccess {
    /// The driver writes, the device reads.
    Reads,
    /// The device writes, the driver reads.
    Writes,
}

impl ChainBuffer {
    /// A device-readable buffer.
    #[must_use]
    pub fn readable(address: u64, len: u32) -> Self {
        Self { address: GuestAddress(address), len, access: DeviceAccess::Reads }
    }

    /// A device-writable buffer.
    #[must_use]
    pub fn writable(address: u64, len: u32) -> Self {
        Self { address: GuestAddress(address), len, access: DeviceAccess::Writes }
    }
}

/// A used element as the driver sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Head index of the chain.
    pub head: u32,
    /// Bytes that the device says it wrote.
    pub len: u32,
}

/// A driver that shares a split ring in `mem`, any kind of pointer to guest memory, with a device.
///
/// Descriptors are handed out one after the other and never taken back: a chain that is to be used
/// again is made available again by its head.
#[derive(Debug)]
pub struct Driver<P> {
    mem: P,
    layout: RingLayout,
    next_descriptor: u16,
    next_avail: u16,
    last_used: u16,
}

impl<P: Deref<Target: GuestMemoryBackend + Sized>> Driver<P> {
    /// A ring of `size` entries whose areas lie one after the other from `base` on, which is
    /// 4096-byte aligned. They take [`Driver::ring_len`] bytes of memory and are cleared.
    pub fn new(mem: P, base: u64, size: u16) -> Self {
        let driver_area_len = driver_area_len(size) as u64;
        let addresses = RingAddresses {
            descriptor_table: GuestAddress(base),
            available_ring: GuestAddress(base + u64::from(size) * Descriptor::SIZE as u64),
            used_ring: GuestAddress(base + driver_area_len),
        };
        mem.write_slice(&vec![0; Self::ring_len(size)], GuestAddress(base)).unwrap();
        Self::at(mem, addresses, size)
    }

    /// A ring of `size` entries at `addresses`, left as it is; the driver continues where its
    /// available index stands.
    pub fn at(mem: P, addresses: RingAddresses, size: u16) -> Self {
        let layout = RingLayout { size, addresses, event_idx: true };
        let mut driver = Self { mem, layout, next_descriptor: 0, next_avail: 0, last_used: 0 };
        driver.next_avail = driver.load(addresses.available_ring, IDX_OFFSET);
        driver.last_used = driver.load(addresses.used_ring, IDX_OFFSET);
        driver
    }

    /// Bytes of memory that [`Driver::new`] takes for a ring of `size` entries.
    #[must_use]
    pub fn ring_len(size: u16) -> usize {
        // flags, index, entries of 8 bytes, event
        driver_area_len(size) + (6 + usize::from(size) * 8).next_multiple_of(4096)
    }

    /// The addresses of the ring.
    #[must_use]
    pub fn addresses(&self) -> RingAddresses {
        self.layout.addresses
    }

    /// The device's side of this ring, with `EVENT_IDX` or without, and indirect descriptors
    /// negotiated.
    pub fn device(&self, event_idx: bool) -> Result<SplitRing, RingError> {
        let mut features = Features::INDIRECT_DESC;
        features.set(Features::EVENT_IDX, event_idx);
        SplitRing::new(&*self.mem, self.layout.size, self.addresses(), features, self.next_avail)
    }

    /// Starts both indexes at `index` instead of 0, as on a ring that was in use.
    pub fn start_at(&mut self, index: u16) {
        self.store(self.layout.addresses.available_ring, IDX_OFFSET, index);
        self.store(self.layout.addresses.used_ring, IDX_OFFSET, index);
        (self.next_avail, self.last_used) = (index, index);
    }

    /// Writes a descriptor of the ring's table.
    pub fn write_descriptor(&self, index: u16, descriptor: Descriptor) {
        self.write_table_entry(self.layout.addresses.descriptor_table, index, descriptor);
    }

    /// Writes a descriptor of the table at `table`.
    pub fn write_table_entry(&self, table: GuestAddress, index: u16, descriptor: Descriptor) {
        let address = table.0 + u64::from(index) * Descriptor::SIZE as u64;
        self.mem.write_slice(&descriptor.to_bytes(), GuestAddress(address)).unwrap();
    }

    /// Lays `buffers` out as a chain in the ring's table, and returns its head.
    pub fn write_chain(&mut self, buffers: &[ChainBuffer]) -> u16 {
        let head = self.next_descriptor;
        self.write_buffers(self.layout.addresses.descriptor_table, head, buffers);
        self.next_descriptor += u16::try_from(buffers.len()).unwrap();
        head
    }

    /// Lays `buffers` out in an indirect table at `table`, and returns the head of the one
    /// descriptor that refers to it.
    pub fn write_indirect_chain(&mut self, table: u64, buffers: &[ChainBuffer]) -> u16 {
        let head = self.next_descriptor;
        self.write_buffers(GuestAddress(table), 0, buffers);
        let len = u32::try_from(buffers.len() * Descriptor::SIZE).unwrap();
        let indirect = Descriptor { address: table, len, flags: DescriptorFlags::INDIRECT, next: 0 };
        self.write_descriptor(head, indirect);
        self.next_descriptor += 1;
        head
    }

    fn write_buffers(&self, table: GuestAddress, first: u16, buffers: &[ChainBuffer]) {
        let last = buffers.len() - 1;
        for (position, buffer) in buffers.iter().enumerate() {
            let index = first + u16::try_from(position).unwrap();
            let mut flags = DescriptorFlags::empty();
            flags.set(DescriptorFlags::WRITE, buffer.access == DeviceAccess::Writes);
            flags.set(DescriptorFlags::NEXT, position < last);
            let next = if position < last { index + 1 } else { 0 };
            let descriptor = Descriptor { address: buffer.address.0, len: buffer.len, flags, next };
            self.write_table_entry(table, index, descriptor);
        }
    }

    /// Writes a request header, see [`request_type`](crate::request_type).
    pub fn write_header(&self, address: u64, request_type: u32, sector: u64) {
        self.mem.write_slice(&header(request_type, sector), GuestAddress(address)).unwrap();
    }

    /// Makes the chain at `head` available: visible to the device at once.
    pub fn make_available(&mut self, head: u16) {
        self.make_all_available([head]);
    }

    /// Makes the chains at `heads` available at once: the device sees all of them or none.
    pub fn make_all_available(&mut self, heads: impl IntoIterator<Item = u16>) {
        for head in heads {
            let entry = self.layout.available_entry(self.next_avail);
            self.store(self.layout.addresses.available_ring, entry, head);
            self.next_avail = self.next_avail.wrapping_add(1);
        }
        self.set_available_index(self.next_avail);
    }

    /// Writes the available index alone.
    pub fn set_available_index(&self, index: u16) {
        let address = GuestAddress(self.layout.addresses.available_ring.0 + IDX_OFFSET as u64);
        self.mem.store(index.to_le(), address, Ordering::Release).unwrap();
    }

    /// Asks for no interrupts, the way a driver without `EVENT_IDX` does.
    pub fn suppress_interrupts(&self) {
        self.store(self.layout.addresses.available_ring, FLAGS_OFFSET, AVAIL_F_NO_INTERRUPT);
    }

    /// Asks for an interrupt once the used index passes `event`.
    pub fn set_used_event(&self, event: u16) {
        self.store(self.layout.addresses.available_ring, self.layout.used_event(), event);
        // the device stores its used index, then reads the event index: one side must see the
        // other's store
        fence(Ordering::SeqCst);
    }

    /// The available index at which the device wants a notification.
    #[must_use]
    pub fn avail_event(&self) -> u16 {
        self.load(self.layout.addresses.used_ring, self.layout.avail_event())
    }

    /// Whether a device with `EVENT_IDX` wants to be notified of the chain that was made available
    /// last.
    #[must_use]
    pub fn wants_notification(&self) -> bool {
        // the device stores its event index, then reads the available index: one side must see the
        // other's store
        fence(Ordering::SeqCst);
        self.avail_event() == self.next_avail.wrapping_sub(1)
    }

    /// Whether the device asks for no notifications, the way one without `EVENT_IDX` does.
    #[must_use]
    pub fn notifications_suppressed(&self) -> bool {
        self.load(self.layout.addresses.used_ring, FLAGS_OFFSET) == USED_F_NO_NOTIFY
    }

    /// The device's used index.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        self.load(self.layout.addresses.used_ring, IDX_OFFSET)
    }

    /// Takes the next used element, if the device published one.
    pub fn take_used(&mut self) -> Option<Used> {
        if self.last_used == self.used_index() {
            return None;
        }
        let entry = self.layout.addresses.used_ring.0 + self.layout.used_entry(self.last_used) as u64;
        let [head, len] = self.mem.read_obj::<[u32; 2]>(GuestAddress(entry)).unwrap().map(u32::from_le);
        self.last_used = self.last_used.wrapping_add(1);
        Some(Used { head, len })
    }

    fn load(&self, area: GuestAddress, offset: usize) -> u16 {
        u16::from_le(self.mem.load(GuestAddress(area.0 + offset as u64), Ordering::Acquire).unwrap())
    }

    fn store(&self, area: GuestAddress, offset: usize, value: u16) {
        self.mem.store(value.to_le(), GuestAddress(area.0 + offset as u64), Ordering::Relaxed).unwrap();
    }
}

/// Descriptor table and available ring: entries of 16 and of 2 bytes; flags, index and event.
fn driver_area_len(size: u16) -> usize {
    (6 + usize::from(size) * 18).next_multiple_of(4096)
}

/// `struct virtio_blk_req` up to its data. `request_type` is one of
/// [`request_type`](crate::request_type) or anything else.
#[must_use]
pub fn header(request_type: u32, sector: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&request_type.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
    bytes
}

/// `struct virtio_blk_discard_write_zeroes`
#[must_use]
pub fn range(sector: u64, num_sectors: u32, flags: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&sector.to_le_bytes());
    bytes[8..12].copy_from_slice(&num_sectors.to_le_bytes());
    bytes[12..].copy_from_slice(&flags.to_le_bytes());
    bytes
}
