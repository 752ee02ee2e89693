//! The device's side of virtio-blk over a split ring, as virtio 1.2 and 1.3 have it.
//!
//! A driver makes *descriptor chains* available; each is a request, and comes back exactly once:
//!
//! ```text
//!   descriptor table     any descriptors, direct or in one indirect table, make up two streams of bytes
//!   +---------------+
//!   | readable      |    readable   | type 4 | reserved 4 | sector 8 | data of a write, ranges of a discard .. |
//!   | ..    (chain) |
//!   | writable      |    writable   | .. data of a read, device ID | status 1 |
//!   +---------------+
//!   | available ring|    head indexes, driver to device: SplitRing::pop
//!   | used ring     |    head index and bytes written, device to driver: Reply::complete, SplitRing::publish
//!   +---------------+
//! ```
//!
//! A driver may split these streams over descriptors as it likes, and drivers do. A header and the
//! status byte's address are read once, when the request is parsed; the copy is private, so
//! the driver cannot change it after a check.
//!
//! The driver is not trusted. Any memory content gives a request, a [`Malformed`] chain that says
//! why and can still be returned, or a [`RingError`] after which the queue is to be retired.
//! Nothing in guest memory can make this crate panic, loop without end or allocate more than a
//! ring's size explains.
//!
//! Guest memory is lent to each call, as any [`GuestMemoryBackend`](vm_memory::GuestMemoryBackend).
//!
//! # The loop
//!
//! ```
//! use stableblk_virtio::{DiskLimits, Operation, Request, RingError, SplitRing, Status, request_type};
//! use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestAddress};
//!
//! /// Serves all chains there are. Returns whether to interrupt the driver.
//! fn serve<M: GuestMemoryBackend>(
//!     ring: &mut SplitRing, mem: &M, disk: &mut [u8], limits: &DiskLimits,
//! ) -> Result<bool, RingError> {
//!     while let Some(chain) = ring.pop(mem)? {
//!         match Request::parse(mem, chain) {
//!             Err(malformed) => malformed.complete(ring, mem),
//!             Ok(request) => {
//!                 let (status, data_written) = match request.check(limits) {
//!                     Ok(()) => transfer(&request, mem, disk),
//!                     Err(status) => (status, 0),
//!                 };
//!                 request.reply.complete(ring, mem, status, data_written);
//!             }
//!         }
//!     }
//!     ring.publish(mem)
//! }
//!
//! /// Moves the data. Returns the status and how many bytes of the driver's buffers were written.
//! fn transfer<M: GuestMemoryBackend>(request: &Request, mem: &M, disk: &mut [u8]) -> (Status, u32) {
//!     let len = request.data.len() as usize;
//!     let (result, data_written) = match request.operation {
//!         Operation::Read { sector } => {
//!             let start = sector as usize * 512;
//!             (request.data.copy_from(mem, 0, &disk[start..start + len]), len as u32)
//!         }
//!         Operation::Write { sector } => {
//!             let start = sector as usize * 512;
//!             (request.data.copy_to(mem, 0, &mut disk[start..start + len]), 0)
//!         }
//!         _ => return (Status::Unsupp, 0),
//!     };
//!     result.map_or((Status::IoErr, 0), |()| (Status::Ok, data_written))
//! }
//!
//! # use stableblk_virtio::testing::{ChainBuffer, Driver, Used};
//! # use vm_memory::Bytes;
//! let mem: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
//! // the driver asks for sector 1
//! let mut driver = Driver::new(&mem, 0, 16);
//! let mut ring = driver.device(true)?;
//! driver.write_header(0x8000, request_type::IN, 1);
//! let head = driver.write_chain(&[
//!     ChainBuffer::readable(0x8000, 16),
//!     ChainBuffer::writable(0x9000, 512),
//!     ChainBuffer::writable(0xa000, 1),
//! ]);
//! driver.make_available(head);
//!
//! let mut disk = vec![0x5a; 4096];
//! let limits =
//!     DiskLimits { capacity_sectors: 8, block_size: 512, read_only: false, discard: None, write_zeroes: None };
//! assert!(serve(&mut ring, &mem, &mut disk, &limits)?);
//!
//! assert_eq!(driver.take_used(), Some(Used { head: 0, len: 513 }));
//! assert_eq!(mem.read_obj::<[u8; 2]>(GuestAddress(0x91fe)).unwrap(), [0x5a; 2]);
//! # Ok::<(), RingError>(())
//! ```
#![forbid(unsafe_code)]

mod area;
mod chain;
mod config;
mod descriptor;
mod limits;
mod malformed;
mod pending;
mod request;
pub mod request_type;
mod ring;
mod segments;
#[cfg(any(test, feature = "test-utils"))]
pub mod testing;

pub use area::{RingAddresses, RingArea};
pub use chain::Chain;
pub use config::{CONFIG_SPACE_SIZE, ConfigError, ConfigSpace, Features, Topology};
pub use descriptor::{Descriptor, DescriptorFlags};
pub use limits::{DiskLimits, RangeLimits};
pub use malformed::{Malformed, MalformedReason};
pub use pending::{PendingChain, Reply, Status};
pub use request::{DEVICE_ID_LEN, Operation, RANGES_MAX, Range, Ranges, Request, SECTOR_SIZE};
pub use ring::{RingError, SplitRing};
pub use segments::{CopyError, Segment, Segments};
