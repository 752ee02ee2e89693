//! Guest memory, a driver and a device on one ring.

use stableblk_virtio::testing::{ChainBuffer, Driver, Used};
use stableblk_virtio::{Malformed, MalformedReason, Request, SplitRing, Status};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const REGION_LEN: usize = 0x4_0000;
pub(crate) const MEMORY_LEN: usize = 2 * REGION_LEN;
/// End of the first region, where the second one starts.
pub(crate) const BORDER: u64 = REGION_LEN as u64;
/// End of the second region; nothing lies behind it.
pub(crate) const MEMORY_END: u64 = MEMORY_LEN as u64;
/// Where tests put an indirect table, a header, data and a status byte; the ring lies below.
pub(crate) const TABLE: u64 = 0x2_0000;
pub(crate) const HEADER: u64 = 0x3_0000;
pub(crate) const DATA: u64 = 0x3_8000;
pub(crate) const STATUS: u64 = 0x3_7fff;
/// The content of memory before a test.
pub(crate) const FILL: u8 = 0xee;

pub(crate) const RING_SIZE: u16 = 16;

/// Two regions that touch, as guests with several memory devices have.
pub(crate) fn guest_memory() -> GuestMemoryMmap {
    let regions = [(GuestAddress(0), REGION_LEN), (GuestAddress(BORDER), REGION_LEN)];
    let mem = GuestMemoryMmap::from_ranges(&regions).unwrap();
    mem.write_slice(&vec![FILL; MEMORY_LEN], GuestAddress(0)).unwrap();
    mem
}

/// A driver and a device on a new ring at address 0.
pub(crate) struct Harness<'m> {
    pub(crate) mem: &'m GuestMemoryMmap,
    pub(crate) driver: Driver<&'m GuestMemoryMmap>,
    pub(crate) ring: SplitRing,
}

impl<'m> Harness<'m> {
    pub(crate) fn new(mem: &'m GuestMemoryMmap) -> Self {
        let driver = Driver::new(mem, 0, RING_SIZE);
        let ring = driver.device(true).unwrap();
        Self { mem, driver, ring }
    }

    /// Makes a chain of `buffers` available.
    pub(crate) fn post(&mut self, buffers: &[ChainBuffer]) {
        let head = self.driver.write_chain(buffers);
        self.driver.make_available(head);
    }

    /// Makes a chain of a header, `buffers` and a status byte available.
    pub(crate) fn post_request(&mut self, request_type: u32, sector: u64, buffers: &[ChainBuffer]) {
        self.driver.write_header(HEADER, request_type, sector);
        let header = ChainBuffer::readable(HEADER, 16);
        let status = ChainBuffer::writable(STATUS, 1);
        self.post(&[&[header], buffers, &[status]].concat());
    }

    /// Pops and parses the chain that was posted.
    pub(crate) fn parse(&mut self) -> Result<Request, Malformed> {
        let chain = self.ring.pop(self.mem).unwrap().expect("a chain is available");
        Request::parse(self.mem, chain)
    }

    /// Publishes, and returns the one used element.
    pub(crate) fn publish(&mut self) -> Used {
        self.ring.publish(self.mem).unwrap();
        let used = self.driver.take_used().expect("a chain was returned");
        assert_eq!(self.driver.take_used(), None);
        assert_eq!(self.ring.outstanding(), 0);
        used
    }

    /// Completes and publishes the one request there is; the used length.
    pub(crate) fn answer(&mut self, request: Request, status: Status, data_written: u32) -> u32 {
        let head = request.reply.head();
        request.reply.complete(&mut self.ring, self.mem, status, data_written);
        let used = self.publish();
        assert_eq!(used.head, u32::from(head));
        used.len
    }

    pub(crate) fn status(&self) -> u8 {
        self.mem.read_obj(GuestAddress(STATUS)).unwrap()
    }

    /// The posted chain is malformed for this reason, and no status can be written: it comes back
    /// with nothing written.
    #[track_caller]
    pub(crate) fn assert_unanswerable(&mut self, reason: MalformedReason) {
        let before = self.status();
        let malformed = self.parse().unwrap_err();
        assert!(matches!(malformed, Malformed::Unanswerable { .. }), "{malformed:?}");
        assert_eq!(malformed.reason(), reason);
        malformed.complete(&mut self.ring, self.mem);
        assert_eq!(self.publish().len, 0);
        assert_eq!(self.status(), before);
    }

    /// The posted chain is malformed for this reason, and is answered with `status` in the usual
    /// place.
    #[track_caller]
    pub(crate) fn assert_answered(&mut self, reason: MalformedReason, status: u8) {
        let malformed = self.parse().unwrap_err();
        assert!(matches!(malformed, Malformed::Answerable { .. }), "{malformed:?}");
        assert_eq!(malformed.reason(), reason);
        malformed.complete(&mut self.ring, self.mem);
        assert_eq!(self.publish().len, 1);
        assert_eq!(self.status(), status);
    }
}

/// A ring on which every head is a chain of one writable byte.
pub(crate) fn ring_of_single_bytes(
    mem: &GuestMemoryMmap,
    event_idx: bool,
    index: u16,
) -> (Driver<&GuestMemoryMmap>, SplitRing) {
    let mut driver = Driver::new(mem, 0, RING_SIZE);
    driver.start_at(index);
    for _ in 0..RING_SIZE {
        driver.write_chain(&[ChainBuffer::writable(STATUS, 1)]);
    }
    let ring = driver.device(event_idx).unwrap();
    (driver, ring)
}

/// Returns all available chains, unpublished; how many.
pub(crate) fn serve(ring: &mut SplitRing, mem: &GuestMemoryMmap) -> u16 {
    let mut served = 0;
    while let Some(chain) = ring.pop(mem).unwrap() {
        Request::parse(mem, chain).unwrap_err().complete(ring, mem);
        served += 1;
    }
    served
}
