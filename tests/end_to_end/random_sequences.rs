//! Random requests of all kinds on two queues, overlapping as they like, against a model of what a
//! disk may hold.
//!
//! A sequence is a list of batches. The requests of a batch are in flight together, so where they
//! overlap, any order is right; the next batch begins when all have come back. After a write, a
//! sector holds what one of the batch's writes to it left; once a read has seen which, it stays
//! that.

use std::cell::RefCell;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use virtio::request_type::{DISCARD, WRITE_ZEROES};
use virtio::testing::range;

use crate::harness::{GuestMemory, Image, OK, Queue, Request, Setup, stamped, stamps};

/// The sectors of the disk. They are few, so that requests meet, and with an end that is no
/// multiple of a folio.
const SECTORS: u64 = 6000;
/// The sectors of the longest request.
const LEN_MAX: u64 = 2400;
const BATCH_MAX: usize = 8;

#[derive(Clone, Copy, Debug)]
enum Operation {
    Read,
    Write,
    WriteZeroes { unmap: bool },
    Discard,
    Flush,
}

#[derive(Clone, Debug)]
struct Step {
    operation: Operation,
    sector: u64,
    count: u64,
    queue: usize,
    indirect: bool,
    /// Length of each segment but the last, in bytes.
    segment: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let operation = prop_oneof![
        4 => Just(Operation::Read),
        6 => Just(Operation::Write),
        1 => any::<bool>().prop_map(|unmap| Operation::WriteZeroes { unmap }),
        1 => Just(Operation::Discard),
        1 => Just(Operation::Flush),
    ];
    // mostly small, and mostly in the same few blocks
    let count = prop_oneof![8 => 1..24_u64, 4 => (1..8_u64).prop_map(|blocks| blocks * 8), 1 => 24..LEN_MAX];
    let sector = prop_oneof![3 => 0..64_u64, 2 => (0..16_u64).prop_map(|block| block * 8), 1 => 0..SECTORS];
    let segment = prop_oneof![4 => Just(u64::MAX), 1 => 4096..70_000_u64, 1 => Just(65_536_u64)];
    (operation, sector, count, 0..2_usize, any::<bool>(), segment).prop_map(
        |(operation, sector, count, queue, indirect, segment)| {
            let count = count.min(SECTORS - sector);
            Step { operation, sector, count, queue, indirect, segment }
        },
    )
}

fn sequence() -> impl Strategy<Value = Vec<Vec<Step>>> {
    prop::collection::vec(prop::collection::vec(step(), 1..=BATCH_MAX), 1..6)
}

/// The possible contents of each sector, by stamp; 0 is zeros.
struct Model {
    allowed: Vec<Vec<u64>>,
    last_stamp: u64,
}

/// A request in flight.
struct Submitted {
    step: Step,
    head: u16,
    buffer: u64,
    /// The stamp that a write leaves in its sectors.
    leaves: Option<u64>,
    /// A discard may also leave what there was.
    may_keep: bool,
}

impl Submitted {
    fn sectors(&self) -> std::ops::Range<usize> {
        let start = usize::try_from(self.step.sector).unwrap();
        start..start + usize::try_from(self.step.count).unwrap()
    }
}

/// A disk under test and its model, over all sequences.
struct Rig {
    memory: Arc<GuestMemory>,
    queues: [Queue; 2],
    buffers: Vec<u64>,
    model: Model,
}

impl Rig {
    fn run_batch(&mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        let batch: Vec<_> = (0..).zip(steps).map(|(slot, step)| self.submit(slot, step)).collect();
        self.queues.iter().for_each(Queue::kick);
        let mut completions = Vec::new();
        for (queue, rig) in self.queues.iter_mut().enumerate() {
            completions.extend(rig.wait_all().into_iter().map(|completion| (queue, completion)));
        }
        prop_assert_eq!(completions.len(), batch.len());
        for submitted in &batch {
            let is_its = |(queue, completion): &&(usize, crate::harness::Completion)| {
                (*queue, completion.head) == (submitted.step.queue, submitted.head)
            };
            let (_, completion) = completions.iter().find(is_its).expect("each request comes back");
            prop_assert_eq!(completion.status, OK, "{:?}", submitted.step);
            let is_read = matches!(submitted.step.operation, Operation::Read);
            let used_len = if is_read { u32::try_from(submitted.step.count * 512 + 1).unwrap() } else { 1 };
            prop_assert_eq!(completion.used_len, used_len, "{:?}", submitted.step);
        }
        self.check_reads(&batch)?;
        self.apply_writes(&batch);
        Ok(())
    }

    fn submit(&mut self, slot: usize, step: &Step) -> Submitted {
        let (buffer, len) = (self.buffers[slot], step.count * 512);
        let mut request = Request::flush();
        let (mut leaves, mut may_keep) = (None, false);
        match step.operation {
            Operation::Read => request = Request::read(step.sector, &segments(buffer, len, step.segment)),
            Operation::Write => {
                self.model.last_stamp += 1;
                leaves = Some(self.model.last_stamp);
                let data = stamped(step.sector, usize::try_from(step.count).unwrap(), self.model.last_stamp);
                self.memory.write(buffer, &data);
                request = Request::write(step.sector, &segments(buffer, len, step.segment));
            }
            Operation::WriteZeroes { unmap } => {
                leaves = Some(0);
                request = self.zeroing(WRITE_ZEROES, buffer, step, u32::from(unmap));
            }
            Operation::Discard => {
                (leaves, may_keep) = (Some(0), true);
                request = self.zeroing(DISCARD, buffer, step, 0);
            }
            Operation::Flush => {}
        }
        let queue = &mut self.queues[step.queue];
        let head = if step.indirect { queue.submit_indirect(&request) } else { queue.submit(&request) };
        Submitted { step: step.clone(), head, buffer, leaves, may_keep }
    }

    fn zeroing(&self, kind: u32, buffer: u64, step: &Step, flags: u32) -> Request {
        self.memory.write(buffer, &range(step.sector, u32::try_from(step.count).unwrap(), flags));
        Request::zeroing(kind, buffer, 16)
    }

    /// A read sees what was there before the batch or what a write of the batch leaves, and whole
    /// sectors of it.
    fn check_reads(&mut self, batch: &[Submitted]) -> Result<(), TestCaseError> {
        for read in batch.iter().filter(|submitted| matches!(submitted.step.operation, Operation::Read)) {
            let data = self.memory.read(read.buffer, usize::try_from(read.step.count * 512).unwrap());
            let found = stamps(read.step.sector, &data).map_err(TestCaseError::fail)?;
            for (sector, stamp) in read.sectors().zip(found) {
                let writes = || {
                    batch.iter().filter(|write| write.leaves.is_some() && write.sectors().contains(&sector))
                };
                let allowed = &mut self.model.allowed[sector];
                let is_allowed =
                    allowed.contains(&stamp) || writes().any(|write| write.leaves == Some(stamp));
                prop_assert!(is_allowed, "sector {sector} was read as {stamp}, allowed were {allowed:?}");
                if writes().next().is_none() {
                    *allowed = vec![stamp];
                }
            }
        }
        Ok(())
    }

    fn apply_writes(&mut self, batch: &[Submitted]) {
        for sector in 0..self.model.allowed.len() {
            let writes: Vec<_> = batch
                .iter()
                .filter(|write| write.leaves.is_some() && write.sectors().contains(&sector))
                .collect();
            if writes.is_empty() {
                continue;
            }
            let mut after: Vec<u64> = writes.iter().filter_map(|write| write.leaves).collect();
            if writes.iter().all(|write| write.may_keep) {
                after.extend(&self.model.allowed[sector]);
            }
            after.dedup();
            self.model.allowed[sector] = after;
        }
    }

    /// Reads the whole disk: it is as the model has it.
    fn assert_all(&mut self) {
        for sector in (0..SECTORS).step_by(2000) {
            let found = stamps(sector, &self.queues[0].read(sector, 2000 * 512)).unwrap();
            for (sector, stamp) in (usize::try_from(sector).unwrap()..).zip(found) {
                assert!(self.model.allowed[sector].contains(&stamp), "sector {sector} holds {stamp}");
            }
        }
    }
}

/// `len` bytes at `buffer` in segments of `segment` bytes or, where those would be too many, of
/// more.
fn segments(buffer: u64, len: u64, segment: u64) -> Vec<(u64, u32)> {
    // no more than an indirect table of the harness holds
    let segment = segment.clamp(len.div_ceil(60), len);
    let starts = (0..len).step_by(usize::try_from(segment).unwrap());
    starts.map(|start| (buffer + start, u32::try_from(segment.min(len - start)).unwrap())).collect()
}

fn run_sequences(args: &[&str], create_args: &[&str], cases: u32) {
    let mut vm = Setup::of(Image::create_with(SECTORS * 512, create_args)).options(args).connect();
    let queues = [vm.frontend.queue_of_size(0, 1024), vm.frontend.queue_of_size(1, 1024)];
    let len_max = usize::try_from(LEN_MAX * 512).unwrap();
    let buffers = (0..BATCH_MAX).map(|_| vm.memory.allocate(len_max)).collect();
    let allowed = vec![vec![0]; usize::try_from(SECTORS).unwrap()];
    let rig = RefCell::new(Rig {
        memory: vm.memory.clone(),
        queues,
        buffers,
        model: Model { allowed, last_stamp: 0 },
    });
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
        .run(&sequence(), |batches| {
            let mut rig = rig.borrow_mut();
            batches.iter().try_for_each(|batch| rig.run_batch(batch))
        })
        .unwrap_or_else(|failure| panic!("{failure}\n{}", vm.backend.log().so_far()));
    rig.borrow_mut().assert_all();
    vm.stop_clean();
}

#[test]
fn a_disk_with_intervals_of_4096_bytes_agrees_with_the_model() {
    run_sequences(&[], &[], 200);
}

#[test]
fn a_disk_with_intervals_of_512_bytes_agrees_with_the_model() {
    run_sequences(&[], &["--interval", "512", "--guard", "t10"], 100);
}

#[test]
fn a_disk_without_bounce_agrees_with_the_model() {
    run_sequences(&["--bounce", "never"], &[], 100);
}
