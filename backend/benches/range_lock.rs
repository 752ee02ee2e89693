//! Prints what parts of the path that not every disk needs cost requests of 4 KiB, as a Markdown
//! table.
//!
//! The range lock, for requests that are aligned and never meet each other: a disk without PI takes
//! it only where the guest's blocks are smaller than its granule. So the same requests on the same
//! granules of 4 KiB are served with the lock and without, by the guest's block size alone. And the
//! in-flight region. Both variants take turns in short runs, so that a change of clock speed or a
//! busy neighbour meets them alike; the best run of each counts.

mod driven;

use std::sync::Arc;

use stableblk::device::mem::MemDevice;
use stableblk::device::{BlockDevice, PlainDevice};
use stableblk::guest::inflight_region::{self, InflightLimits, InflightQueue, InflightRegion};
use stableblk::storage::image::{Access, DirectIo, Image};
use stableblk::worker::disk::Bounce;
use vhost::vhost_user::message::VhostUserInflight;
use virtio::request_type;

use crate::driven::{BATCH, CAPACITY, GRANULE, Load, RING_SIZE, run};

/// Runs of each variant.
const RUNS: usize = 1001;

fn main() {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").expect("tmpfs is mounted on /dev/shm");
    file.as_file().set_len(CAPACITY).expect("it is small");
    println!("One request of 4 KiB, {BATCH} at a time; the best of {RUNS} alternating runs.\n");
    println!("| part | device | request | without it | with it | ratio |\n|---|---|---|---|---|---|");
    let capacity = usize::try_from(CAPACITY).expect("it is small");
    let memory = Arc::new(MemDevice::new(None, capacity));
    let image = Image::open(file.path(), Access::ReadWrite, DirectIo::WherePossible);
    let tmpfs = Arc::new(PlainDevice::new(image.expect("it was made above")));
    for part in [Part::RangeLock, Part::InflightRegion] {
        for request_type in [request_type::OUT, request_type::IN] {
            compare(part, "memory", &memory, request_type);
            compare(part, "io_uring, tmpfs", &tmpfs, request_type);
        }
    }
}

/// A part of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    RangeLock,
    InflightRegion,
}

fn compare<B: BlockDevice>(part: Part, name: &str, device: &Arc<B>, request_type: u32) {
    let (mut without, mut with) = (f64::INFINITY, f64::INFINITY);
    let load = |part| Load {
        request_type,
        block_size: if part == Some(Part::RangeLock) { 512 } else { GRANULE },
        bounce: Bounce::Always,
        inflight: (part == Some(Part::InflightRegion)).then(inflight_queue).flatten(),
    };
    for _ in 0..RUNS {
        without = without.min(run(device.clone(), load(None)));
        with = with.min(run(device.clone(), load(Some(part))));
    }
    let request = if request_type == request_type::OUT { "write" } else { "read" };
    println!("| {part:?} | {name} | {request} | {without:.0} ns | {with:.0} ns | {:.3} |", with / without);
}

/// A region as a front-end would have it made, for one queue.
fn inflight_queue() -> Option<InflightQueue> {
    let limits = InflightLimits { queues: 1, queue_size: RING_SIZE };
    let asked = VhostUserInflight::new(0, 0, 1, RING_SIZE);
    let (made, file) = inflight_region::create(&asked, limits).expect("it is small");
    let region = InflightRegion::map(&made, file, limits).expect("it was made above");
    InflightQueue::take_over(&Arc::new(region), 0, RING_SIZE, 0).expect("it is new")
}
