//! A back-end is killed after each store that it makes to the in-flight region and to the used
//! index. Its memory is compared word for word, and its successor must return every request
//! once, none twice.

use std::sync::Arc;

use crate::harness::inflight::{
    COUNTER, DESC_NUM, INFLIGHT, InflightRegion, LAST_BATCH_HEAD, NEXT, USED_IDX, VERSION, descriptor,
};
use crate::harness::watched::{Watch, WatchedWorker, debug_registers};
use crate::harness::{Backend, Connected, Frontend, GuestMemory, Image, OK, Queue, Request, Setup, pattern};
use crate::skip::skip;

const RING_SIZE: u16 = 64;
/// The type of a request that needs no device.
const GET_ID: u32 = 8;

/// A store that a request's life has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    /// To queue 0's part of the region.
    Region {
        offset: usize,
        value: u64,
        len: usize,
    },
    UsedIndex(u16),
}

impl Store {
    fn word(offset: usize, value: u16) -> Self {
        Self::Region { offset, value: value.into(), len: 2 }
    }

    fn is_seen_by(&self, watch: &Watch) -> bool {
        match *self {
            Self::UsedIndex(_) => watch.memfd == "guest",
            Self::Region { offset, .. } => {
                let offset = offset as u64;
                watch.memfd != "guest" && (watch.offset..watch.offset + watch.len).contains(&offset)
            }
        }
    }

    /// That of `desc[head].inflight`.
    fn inflight(head: u16, value: u8) -> Self {
        Self::Region { offset: descriptor(head) + INFLIGHT, value: value.into(), len: 1 }
    }
}

/// The stores of popping `heads` in this order, the counter being at `counter`.
fn popping(heads: &[u16], counter: u64) -> Vec<Store> {
    let pop = |(counter, head): (u64, &u16)| {
        [
            Store::Region { offset: descriptor(*head) + COUNTER, value: counter, len: 8 },
            Store::inflight(*head, 1),
        ]
    };
    (counter..).zip(heads).flat_map(pop).collect()
}

/// The stores of publishing `heads` as one batch, the used index being at `used` and the last
/// batch's head `last`.
fn publishing(heads: &[u16], used: u16, mut last: u16) -> Vec<Store> {
    let mut stores = Vec::new();
    for head in heads {
        stores.push(Store::word(descriptor(*head) + NEXT, last));
        stores.push(Store::word(LAST_BATCH_HEAD, *head));
        last = *head;
    }
    let used = used.wrapping_add(heads.len().try_into().unwrap());
    stores.push(Store::UsedIndex(used));
    stores.extend(heads.iter().map(|head| Store::inflight(*head, 0)));
    stores.push(Store::word(USED_IDX, used));
    stores
}

/// A front-end that outlives its back-ends.
struct Survivor {
    memory: Arc<GuestMemory>,
    image: Image,
    region: InflightRegion,
    queue: Queue,
    /// The expected contents of queue 0's part.
    expected: Vec<u8>,
    used: u16,
}

impl Survivor {
    fn new() -> Self {
        let Connected { mut frontend, memory, backend, image } = Setup::disk(1 << 20).connect();
        let region = InflightRegion::ask(&mut frontend, 1, RING_SIZE);
        let mut expected = region.part(0);
        expected[VERSION..][..2].copy_from_slice(&1u16.to_ne_bytes());
        expected[DESC_NUM..][..2].copy_from_slice(&RING_SIZE.to_ne_bytes());
        let queue = Queue::new(0, RING_SIZE, &memory, backend.log().clone());
        Self { memory, image, region, queue, expected, used: 0 }
    }

    /// Serves the queue by a new back-end.
    fn serve(&mut self) -> (Backend, Frontend) {
        let backend = Backend::serve(&self.image, &[]);
        let mut frontend = Frontend::connect(&backend, &self.memory);
        self.region.give_to(&mut frontend);
        // as a front-end does that lost the last one: it knows the rings alone
        let base = self.queue.driver().used_index();
        frontend.start(&self.queue, base);
        (backend, frontend)
    }

    /// Has a back-end do `requests`, which it returns as one batch, and kills it at the `step`th
    /// watched store. Compares what it leaves, and has a successor do the rest. Returns whether
    /// there are more stores.
    fn kill_at(&mut self, step: usize, requests: &[Request]) -> bool {
        let (backend, frontend) = self.serve();
        let worker = WatchedWorker::stop(&backend);
        let heads: Vec<u16> = requests.iter().map(|request| self.queue.submit(request)).collect();
        self.queue.kick();
        let last = u16::from_ne_bytes(*self.expected[LAST_BATCH_HEAD..].first_chunk().unwrap());
        // nothing was in flight, so the counters begin at 0 again
        let stores = [popping(&heads, 0), publishing(&heads, self.used, last)].concat();
        let (returned, watches) = (self.used, self.watches(&heads));
        worker.watch(&watches);
        let register = |store: &Store| watches.iter().position(|watch| store.is_seen_by(watch));
        let stops: Vec<usize> = (0..stores.len()).filter(|at| register(&stores[*at]).is_some()).collect();
        let mut done = 0;
        for &stop in &stops[..=step] {
            let store = stores[stop];
            assert_eq!(Some(worker.run_to_store()), register(&store), "not {store:?}");
            stores[done..=stop].iter().for_each(|store| self.expect(*store));
            done = stop + 1;
            assert_eq!(self.region.part(0), self.expected, "after {store:?}");
            assert_eq!(self.queue.driver().used_index(), self.used, "after {store:?}");
        }
        worker.kill(backend);
        drop(frontend);

        let (_backend, mut frontend) = self.serve();
        let mut completed: Vec<u16> = self
            .queue
            .wait_all()
            .into_iter()
            .map(|completion| {
                assert_eq!(completion.status, OK);
                completion.head
            })
            .collect();
        completed.sort_unstable();
        let mut expected = heads;
        expected.sort_unstable();
        assert_eq!(completed, expected, "killed at {:?}", stores[stops[step]]);
        frontend.stop(&self.queue);
        self.used = returned.wrapping_add(completed.len().try_into().unwrap());
        assert_eq!(self.queue.driver().used_index(), self.used, "something was returned twice");
        assert_eq!(self.region.in_flight(0), [0u16; 0]);
        self.expected = self.region.part(0);
        assert_eq!(self.expected[USED_IDX..][..2], self.used.to_ne_bytes());
        step + 1 < stops.len()
    }

    /// The used index, the region's head, and two descriptors' states as far as there are debug
    /// registers: of one head both halves, of several the halves with the mark of the first and the
    /// last.
    fn watches(&mut self, heads: &[u16]) -> [Watch; 4] {
        let region = |offset| Watch { memfd: "stableblk-inflight", offset: offset as u64, len: 8 };
        let used_index = self.memory.file_offset(self.queue.addresses().used_ring) + 2;
        let (first, last) = (descriptor(heads[0]), descriptor(heads[heads.len() - 1]));
        [
            Watch { memfd: "guest", offset: used_index, len: 2 },
            region(8),
            region(first),
            region(if heads.len() == 1 { first + COUNTER } else { last }),
        ]
    }

    fn expect(&mut self, store: Store) {
        match store {
            Store::Region { offset, value, len } => {
                self.expected[offset..offset + len].copy_from_slice(&value.to_ne_bytes()[..len]);
            }
            Store::UsedIndex(index) => self.used = index,
        }
    }
}

/// False, and says so, where no store can be stopped at.
fn can_be_watched() -> bool {
    let registers = debug_registers();
    if let Err(error) = registers {
        skip(&format!("debug registers cannot be set here: {error}"));
    }
    registers.is_ok()
}

#[test]
fn a_write_is_returned_once_whichever_store_was_the_last() {
    if !can_be_watched() {
        return;
    }
    let mut survivor = Survivor::new();
    let (buffer, mut step) = (survivor.memory.allocate(4096), 0);
    loop {
        let data = pattern(step as u64, 4096);
        survivor.memory.write(buffer, &data);
        let more = survivor.kill_at(step, &[Request::write(8, &[(buffer, 4096)])]);
        assert!(survivor.image.read(4096, 4096) == data);
        step += 1;
        if !more {
            break;
        }
    }
    // counter, mark, list, its head, the used index, no mark, its copy
    assert_eq!(step, 7);
    survivor.image.assert_clean();
}

#[test]
fn a_batch_is_returned_once_whichever_store_was_the_last() {
    if !can_be_watched() {
        return;
    }
    let mut survivor = Survivor::new();
    let buffer = survivor.memory.allocate(4096);
    // two: a worker that has slept takes no more in its first turn
    let requests = [(); 2].map(|()| Request::answered(GET_ID, buffer, 20));
    let mut step = 0;
    while survivor.kill_at(step, &requests) {
        step += 1;
    }
    // two marks; two heads of the list and their links; the used index; two marks taken away; its
    // copy
    assert_eq!(step + 1, 2 + 2 + 2 + 1 + 2 + 1);
}
