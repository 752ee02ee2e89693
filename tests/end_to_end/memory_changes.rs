//! The guest's memory grows, shrinks and is exchanged while its queues are busy.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, MemfdFlags, flock, fstatfs, memfd_create};
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};

use crate::harness::{
    Backend, Frontend, GuestMemory, IOERR, Image, OK, Queue, Request, Setup, TIME_LIMIT, pattern,
};
use crate::skip::skip;

/// The number of memory regions that the back-end offers.
const SLOTS: u64 = 509;
const QUEUES: usize = 4;
const DIMM_SIZE: u64 = 64 << 10;
/// Above all other memory.
pub(crate) const DIMMS: u64 = 1 << 40;
const AREA: usize = 16 << 10;

/// A piece of memory that is not there at the start.
pub(crate) struct Dimm {
    pub(crate) start: u64,
    size: u64,
    pub(crate) file: File,
    pub(crate) memory: GuestMemoryMmap,
}

impl Dimm {
    pub(crate) fn new(index: u64) -> Self {
        let file = memfd_create("dimm", MemfdFlags::CLOEXEC).unwrap();
        // with gaps, which make a region of its own of each
        Self::of(file.into(), DIMMS + index * 2 * DIMM_SIZE, DIMM_SIZE)
    }

    /// All of `file`, which gets `size` bytes.
    pub(crate) fn of(file: File, start: u64, size: u64) -> Self {
        file.set_len(size).unwrap();
        let len = usize::try_from(size).unwrap();
        let range = (GuestAddress(start), len, Some(FileOffset::new(file.try_clone().unwrap(), 0)));
        Self { start, size, file, memory: GuestMemoryMmap::from_ranges_with_files([range]).unwrap() }
    }

    pub(crate) fn region(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: self.start,
            memory_size: self.size,
            userspace_addr: self.start,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }

    /// Writes `data` to the disk out of this memory, and reads it back into it.
    pub(crate) fn write_and_read(&self, queue: &mut Queue, sector: u64, data: &[u8]) {
        let segment = [(self.start, u32::try_from(data.len()).unwrap())];
        self.memory.write_slice(data, GuestAddress(self.start)).unwrap();
        assert_eq!(queue.execute(&Request::write(sector, &segment)).status, OK);
        self.memory.write_slice(&vec![0; data.len()], GuestAddress(self.start)).unwrap();
        assert_eq!(queue.execute(&Request::read(sector, &segment)).status, OK);
        let mut read = vec![0; data.len()];
        self.memory.read_slice(&mut read, GuestAddress(self.start)).unwrap();
        assert!(read == data);
    }
}

/// Writes and reads an area of its own until `done`, and signals `busy` in each round. Returns the
/// time that the longest request took.
fn keep_busy(queue: &mut Queue, busy: &Sender<()>, done: &AtomicBool) -> Duration {
    let sector = 8192 * (queue.index() as u64 + 1);
    let (mut rounds, mut longest) = (0, Duration::ZERO);
    while !done.load(Relaxed) {
        let data = pattern(rounds, AREA);
        let start = Instant::now();
        queue.write(sector, &data);
        longest = longest.max(start.elapsed());
        assert!(queue.read(sector, AREA) == data);
        rounds += 1;
        // only the first round of each is waited for
        let _ = busy.send(());
    }
    longest
}

/// A disk for `changes` to the guest's memory, with four queues.
struct Rig {
    image: Image,
    backend: Backend,
    memory: Arc<GuestMemory>,
}

impl Rig {
    fn new() -> Self {
        let image = Image::create(64 << 20);
        let backend = Backend::serve(&image, &["--num-queues", "4"]);
        Self { image, backend, memory: GuestMemory::new() }
    }

    /// Runs `changes` while all queues but the first, which it gets, are busy. How long the longest
    /// request took meanwhile.
    fn under_load(&self, changes: impl FnOnce(&mut Frontend, &mut Queue)) -> Duration {
        let mut frontend = Frontend::connect(&self.backend, &self.memory);
        let mut queue = frontend.queue(0);
        let mut queues: Vec<_> = (1..QUEUES).map(|index| frontend.queue(index)).collect();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            // also when it panics: the others are joined before the panic is reported
            let stop = StopOnDrop(&done);
            let threads: Vec<_> = queues
                .iter_mut()
                .map(|queue| {
                    let (busy, is_busy) = mpsc::channel();
                    let done = &done;
                    (scope.spawn(move || keep_busy(queue, &busy, done)), is_busy)
                })
                .collect();
            for (_, is_busy) in &threads {
                is_busy.recv_timeout(TIME_LIMIT).expect("the first round");
            }
            changes(&mut frontend, &mut queue);
            drop(stop);
            threads.into_iter().map(|(thread, _)| thread.join().unwrap()).max().unwrap()
        })
    }

    fn finish(self) {
        self.backend.stop();
        self.image.assert_clean();
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn regions_are_added_up_to_the_last_slot_and_removed() {
    let rig = Rig::new();
    let dimms: Vec<_> = (0..SLOTS - rig.memory.regions().len() as u64).map(Dimm::new).collect();
    let one_too_many = Dimm::new(SLOTS);
    let longest = rig.under_load(|frontend, queue| {
        assert_eq!(frontend.protocol.get_max_mem_slots().unwrap(), SLOTS);
        let mut longest_change = Duration::ZERO;
        for (index, dimm) in (0..).zip(&dimms) {
            let start = Instant::now();
            frontend.protocol.add_mem_region(&dimm.region()).unwrap();
            longest_change = longest_change.max(start.elapsed());
            if index % 32 == 0 {
                dimm.write_and_read(queue, 8, &pattern(index, AREA));
            }
        }
        assert!(frontend.protocol.add_mem_region(&one_too_many.region()).is_err());
        dimms.last().unwrap().write_and_read(queue, 16, &pattern(7, AREA));
        for dimm in &dimms {
            let start = Instant::now();
            frontend.protocol.remove_mem_region(&dimm.region()).unwrap();
            longest_change = longest_change.max(start.elapsed());
        }
        // removed memory cannot be reached
        let write = Request::write(8, &[(dimms[0].start, 4096)]);
        assert_eq!(queue.execute(&write).status, IOERR);
        println!("{} changes, the longest took {longest_change:?}", 2 * dimms.len());
    });
    println!("longest request meanwhile: {longest:?}");
    rig.finish();
}

/// A request may lie in a region from the moment that the front-end has its acknowledgement, and
/// the queue is in the middle of others then.
#[test]
fn a_region_is_used_as_soon_as_it_is_acknowledged() {
    let rig = Rig::new();
    let buffer = rig.memory.allocate(AREA);
    rig.under_load(|frontend, queue| {
        for index in 0..100 {
            let dimm = Dimm::new(index);
            for request in 0..60 {
                let segment = [(buffer, u32::try_from(AREA).unwrap())];
                queue.submit(&Request::write(32 * request, &segment));
            }
            queue.kick();
            frontend.protocol.add_mem_region(&dimm.region()).unwrap();
            queue.submit(&Request::write(4096, &[(dimm.start, 4096)]));
            queue.kick();
            assert!(queue.wait_all().iter().all(|completion| completion.status == OK), "region {index}");
        }
    });
    rig.finish();
}

#[test]
fn the_whole_table_is_exchanged() {
    let rig = Rig::new();
    let dimms: Vec<_> = (0..6).map(Dimm::new).collect();
    rig.under_load(|frontend, queue| {
        for round in 0..40 {
            let there = usize::try_from(round % 7).unwrap();
            let mut regions = rig.memory.regions();
            regions.extend(dimms[..there].iter().map(Dimm::region));
            frontend.protocol.set_mem_table(&regions).unwrap();
            for (index, dimm) in dimms.iter().enumerate() {
                if index < there {
                    dimm.write_and_read(queue, 8, &pattern(round, AREA));
                } else {
                    let write = Request::write(8, &[(dimm.start, 4096)]);
                    assert_eq!(queue.execute(&write).status, IOERR);
                }
            }
        }
    });
    rig.finish();
}

/// Requests whose buffers go away under them succeed or fail, each as a whole, and nothing else
/// does.
#[test]
fn requests_whose_buffers_are_removed_succeed_or_fail_as_a_whole() {
    let rig = Rig::new();
    let dimm = Dimm::new(0);
    rig.under_load(|frontend, queue| {
        let mut failed = 0;
        for round in 0..30 {
            frontend.protocol.add_mem_region(&dimm.region()).unwrap();
            for request in 0..60 {
                let segment = [(dimm.start, 16 << 10), (dimm.start + (32 << 10), 16 << 10)];
                queue.submit(&match (request + round) % 2 {
                    0 => Request::write(64 * request, &segment),
                    _ => Request::read(64 * request, &segment),
                });
            }
            queue.kick();
            frontend.protocol.remove_mem_region(&dimm.region()).unwrap();
            let completions = queue.wait_all();
            assert_eq!(completions.len(), 60);
            assert!(completions.iter().all(|completion| [OK, IOERR].contains(&completion.status)));
            // a request that had not been begun when the memory was removed
            queue.submit(&Request::write(0, &[(dimm.start, 4096)]));
            queue.kick();
            assert_eq!(queue.wait().status, IOERR);
            failed += completions.iter().filter(|completion| completion.status == IOERR).count();
        }
        println!("{failed} of {} requests failed", 30 * 60);
    });
    rig.finish();
}

/// A queue whose rings are gone is not served, and continues where it was when they are back.
#[test]
fn a_queue_whose_rings_return_continues_where_it_was() {
    let rig = Rig::new();
    let mut frontend = Frontend::connect(&rig.backend, &rig.memory);
    let mut queues: Vec<_> = (0..QUEUES).map(|index| frontend.queue(index)).collect();
    let rings = rig.memory.regions()[0];
    let buffer = rig.memory.allocate(AREA);
    for round in 0..20 {
        rig.memory.write(buffer, &pattern(round, AREA));
        for (index, queue) in (0..).zip(&mut queues) {
            for request in 0..50 {
                let sector = 8192 * index + 32 * request;
                queue.submit(&Request::write(sector, &[(buffer, u32::try_from(AREA).unwrap())]));
            }
            queue.kick();
        }
        frontend.protocol.remove_mem_region(&rings).unwrap();
        let used = used_indexes(&mut queues);
        queues.iter().for_each(Queue::kick);
        assert_eq!(frontend.config(0, 60).unwrap().len(), 60);
        assert_eq!(used_indexes(&mut queues), used, "a ring was written after its memory was taken away");
        frontend.protocol.add_mem_region(&rings).unwrap();
        for queue in &mut queues {
            let completions = queue.wait_all();
            assert_eq!(completions.len(), 50);
            assert!(completions.iter().all(|completion| completion.status == OK));
        }
        assert!(queues[0].read(8192 * 3, AREA) == pattern(round, AREA));
    }
    drop(queues);
    drop(frontend);
    rig.finish();
}

/// Huge pages that the kernel has set aside, until this is dropped.
struct HugePages {
    before: u64,
    /// Keeps others who run these tests from changing the count meanwhile.
    _lock: File,
}

impl HugePages {
    const COUNT: &str = "/proc/sys/vm/nr_hugepages";

    fn count() -> Result<u64, String> {
        let count = fs::read_to_string(Self::COUNT).map_err(|error| format!("{}: {error}", Self::COUNT))?;
        count.trim().parse().map_err(|error| format!("{}: {error}", Self::COUNT))
    }

    /// Sets `more` aside. Fails with the reason why not.
    fn reserve(more: u64) -> Result<Self, String> {
        let lock = File::open(Self::COUNT).map_err(|error| format!("{}: {error}", Self::COUNT))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|error| format!("{}: {error}", Self::COUNT))?;
        let reserved = Self { before: Self::count()?, _lock: lock };
        let wanted = reserved.before + more;
        fs::write(Self::COUNT, wanted.to_string()).map_err(|error| format!("{}: {error}", Self::COUNT))?;
        let count = Self::count()?;
        if count < wanted {
            Err(format!("the kernel has {count} huge pages of {wanted}"))
        } else {
            Ok(reserved)
        }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        let _ = fs::write(Self::COUNT, self.before.to_string());
    }
}

/// As `lost_memory::nothing_of_a_truncated_region_reaches_the_disk`, of pages that can be replaced
/// only whole.
#[test]
fn truncated_huge_pages_fail_their_requests() {
    let _reserved = match HugePages::reserve(2) {
        Ok(reserved) => reserved,
        Err(reason) => return skip(&reason),
    };
    let file = File::from(memfd_create("dimm", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB).unwrap());
    let page = u64::try_from(fstatfs(&file).unwrap().f_bsize).unwrap();
    let dimm = Dimm::of(file, DIMMS, 2 * page);
    let mut vm = Setup::disk(16 << 20).start();
    vm.frontend.protocol.add_mem_region(&dimm.region()).unwrap();
    vm.queue.write(8, &pattern(1, 4096));
    let lost = dimm.start + page;
    assert_eq!(vm.queue.execute(&Request::read(8, &[(lost + 8192, 4096)])).status, OK);
    dimm.file.set_len(page).unwrap();
    assert_eq!(vm.queue.execute(&Request::write(8, &[(lost + 8192, 4096)])).status, IOERR);
    assert!(vm.frontend.reply().is_none(), "the session does not end");
    drop(vm.frontend);
    let mut frontend = vm.backend.connect();
    assert!(frontend.queue(0).read(8, 4096) == pattern(1, 4096));
    drop(frontend);
    let log = vm.backend.stop();
    assert!(log.contains(&format!("the front-end truncated the file to {page} bytes")), "{log}");
    vm.image.assert_clean();
}

fn used_indexes(queues: &mut [Queue]) -> Vec<u16> {
    queues.iter_mut().map(|queue| queue.driver().used_index()).collect()
}
