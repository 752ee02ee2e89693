//! A worker that dies ends its session, which is how a front-end learns that a queue's requests
//! will not come back.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use stableblk::device::faulty::{Fault, FaultyDevice};
use stableblk::device::operation::DeviceOperation;
use stableblk::worker::disk::Disk;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio::request_type;
use virtio::testing::{ChainBuffer, Driver, header};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::alone;
use crate::messages::{Session, device, disk_on};
use crate::notices::{TIME_LIMIT, connect};

const MEMORY_SIZE: usize = 1 << 20;
const RING_SIZE: u16 = 16;
const HEADER: u64 = 512 << 10;
const STATUS: u64 = HEADER + 4096;

fn guest_memory() -> GuestMemoryMmap {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(MEMORY_SIZE as u64).unwrap();
    let range = (GuestAddress(0), MEMORY_SIZE, Some(FileOffset::new(file, 0)));
    let memory = GuestMemoryMmap::from_ranges_with_files([range]).unwrap();
    memory.write_slice(&header(request_type::FLUSH, 0), GuestAddress(HEADER)).unwrap();
    memory
}

/// Connects and starts queues 0 and 1, whose rings are those of `drivers`.
fn start(
    stream: &UnixStream,
    memory: &GuestMemoryMmap,
    drivers: &[Driver<&GuestMemoryMmap>; 2],
    kicks: &[EventFd; 2],
) -> Frontend {
    let mut frontend = connect(stream.try_clone().unwrap());
    let region = |region: &GuestRegionMmap| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap();
    frontend.set_mem_table(&memory.iter().map(region).collect::<Vec<_>>()).unwrap();
    let address = |address| memory.get_host_address(address).unwrap().addr() as u64;
    frontend.get_queue_num().unwrap();
    for (index, (driver, kick)) in drivers.iter().zip(kicks).enumerate() {
        let addresses = driver.addresses();
        let config = VringConfigData {
            queue_max_size: RING_SIZE,
            queue_size: RING_SIZE,
            desc_table_addr: address(addresses.descriptor_table),
            avail_ring_addr: address(addresses.available_ring),
            used_ring_addr: address(addresses.used_ring),
            ..VringConfigData::default()
        };
        frontend.set_vring_num(index, RING_SIZE).unwrap();
        frontend.set_vring_addr(index, &config).unwrap();
        frontend.set_vring_kick(index, kick).unwrap();
        frontend.set_vring_enable(index, true).unwrap();
    }
    frontend
}

fn ring_sizes<B>(disk: &Disk<B>) -> Vec<u64> {
    disk.metrics.iter().map(|queue| queue.ring.size.get()).collect()
}

#[test]
fn a_worker_that_dies_ends_the_session_and_the_next_one_serves() {
    let _alone = alone();
    // the first flush only
    let broken = AtomicBool::new(false);
    let faulty = FaultyDevice::new(device(), move |operation| {
        let breaks =
            matches!(operation, DeviceOperation::Flush { .. }) && !broken.swap(true, Ordering::Relaxed);
        breaks.then(|| Fault::Broken(Errno::NXIO.raw_os_error()))
    });
    let disk = disk_on(Arc::new(faulty));
    let memory = guest_memory();
    let kicks = [(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap());
    for dies in [true, false] {
        let mut drivers = [0, 64 << 10].map(|base| Driver::new(&memory, base, RING_SIZE));
        let (stream, served) = UnixStream::pair().unwrap();
        let session = Session::start(disk.clone(), served);
        let frontend = start(&stream, &memory, &drivers, &kicks);
        assert_eq!(ring_sizes(&disk), [u64::from(RING_SIZE), u64::from(RING_SIZE), 0]);
        let head =
            drivers[0].write_chain(&[ChainBuffer::readable(HEADER, 16), ChainBuffer::writable(STATUS, 1)]);
        drivers[0].make_available(head);
        kicks[0].write(1).unwrap();
        if dies {
            // the front-end has said nothing, and holds its end of the stream
            session.join();
            assert_eq!(drivers[0].take_used(), None);
        } else {
            let deadline = Instant::now() + TIME_LIMIT;
            while drivers[0].take_used().is_none() {
                assert!(Instant::now() < deadline, "the flush does not come back");
            }
            drop((frontend, stream));
            session.join();
        }
        assert_eq!(ring_sizes(&disk), [0, 0, 0], "a queue that is not served");
    }
}
