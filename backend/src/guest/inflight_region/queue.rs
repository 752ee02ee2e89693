//! The part of one queue: `QueueRegionSplit` of the vhost-user specification.
//!
//! ```text
//! pop      desc[head].counter, then .inflight = 1
//! publish  for each head: desc[head].next = last_batch_head, last_batch_head = head
//!          the used ring's index
//!          for each head: desc[head].inflight = 0
//!          used_idx = the used ring's index
//! ```
//!
//! Whatever instant the process dies at: a used index that is not `used_idx` tells that a batch was shown to the driver, how
//! many it were, and the list from `last_batch_head` which, so that none of them is returned again. Each store is a release:
//! who sees one sees all that came before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use vm_memory::{AtomicInteger, VolatileMemory};

use super::{DESCRIPTOR_SIZE, InflightError, InflightRegion, QUEUE_HEADER_SIZE, queue_len};

/// The version of the layout that this is. 0 is a part that was never used.
const VERSION: u16 = 1;

// offsets in `QueueRegionSplit`
const FEATURES: usize = 0;
const VERSION_OFFSET: usize = 8;
const DESC_NUM: usize = 10;
const LAST_BATCH_HEAD: usize = 12;
const USED_IDX: usize = 14;
// offsets in `DescStateSplit`
const INFLIGHT: usize = 0;
const NEXT: usize = 6;
const COUNTER: usize = 8;

/// One queue's part of the region, for the worker that serves the queue.
#[derive(Debug)]
pub struct InflightQueue {
    region: Arc<InflightRegion>,
    /// Where the part begins, in bytes.
    start: usize,
    /// The number of the next request, by which a successor knows their order.
    counter: u64,
    /// What the next used index covers.
    batch: Vec<u16>,
    /// What a predecessor had in flight, in the order in which it had popped it; `None` when there was no predecessor.
    interrupted: Option<Vec<u16>>,
}

impl InflightQueue {
    /// Takes over the part of queue `index`, whose ring has `ring_size` entries and stands at `used_idx`. What a
    /// predecessor had in flight is in [`Self::take_interrupted`] then. `None` when the region has no such queue.
    pub fn take_over(
        region: &Arc<InflightRegion>,
        index: usize,
        ring_size: u16,
        used_idx: u16,
    ) -> Result<Option<Self>, InflightError> {
        if index >= region.queues {
            return Ok(None);
        }
        if ring_size > region.queue_size {
            return Err(InflightError::RingSize { queue: index, ring_size, desc_num: region.queue_size });
        }
        let mut queue = Self {
            region: region.clone(),
            start: index * queue_len(region.queue_size),
            counter: 0,
            batch: Vec::with_capacity(ring_size.into()),
            interrupted: None,
        };
        match queue.word::<AtomicU16>(VERSION_OFFSET).load(Ordering::Acquire) {
            0 => queue.initialise(used_idx),
            VERSION => {
                let desc_num = queue.word::<AtomicU16>(DESC_NUM).load(Ordering::Acquire);
                if desc_num != region.queue_size {
                    return Err(InflightError::RingSize { queue: index, ring_size, desc_num });
                }
                queue.finish_last_batch(ring_size, used_idx);
                queue.find_interrupted(ring_size);
            }
            version => return Err(InflightError::Version { queue: index, version }),
        }
        Ok(Some(queue))
    }

    /// What a predecessor popped and did not return, in that order; nothing the second time.
    pub fn take_interrupted(&mut self) -> Vec<u16> {
        self.interrupted.take().unwrap_or_default()
    }

    /// How many requests [`Self::take_interrupted`] has; `None` when the part was never used, and so cannot tell.
    pub fn interrupted(&self) -> Option<u16> {
        self.interrupted.as_ref().map(|heads| u16::try_from(heads.len()).unwrap_or(u16::MAX))
    }

    /// Whether the region is lost, so that a successor will not find what was noted.
    pub fn is_lost(&self) -> bool {
        self.region.loss().is_some()
    }

    /// The chain at `head` was popped.
    pub fn popped(&mut self, head: u16) {
        self.descriptor::<AtomicU64>(head, COUNTER).store(self.counter, Ordering::Relaxed);
        self.counter = self.counter.wrapping_add(1);
        self.descriptor::<AtomicU8>(head, INFLIGHT).store(1, Ordering::Release);
    }

    /// The chains at `heads` are about to be shown to the driver by one store of the used index.
    pub fn publishing(&mut self, heads: impl Iterator<Item = u16>) {
        let mut last = self.word::<AtomicU16>(LAST_BATCH_HEAD).load(Ordering::Relaxed);
        for head in heads {
            self.descriptor::<AtomicU16>(head, NEXT).store(last, Ordering::Release);
            self.word::<AtomicU16>(LAST_BATCH_HEAD).store(head, Ordering::Release);
            last = head;
            self.batch.push(head);
        }
    }

    /// The used index became `used_idx`, which covers all that was said to be about to be shown.
    pub fn published(&mut self, used_idx: u16) {
        for &head in &self.batch {
            self.descriptor::<AtomicU8>(head, INFLIGHT).store(0, Ordering::Release);
        }
        self.batch.clear();
        self.word::<AtomicU16>(USED_IDX).store(used_idx, Ordering::Release);
    }

    /// Makes a part out of memory that never was one. The version comes last: who dies before begins anew.
    fn initialise(&self, used_idx: u16) {
        for head in 0..self.region.queue_size {
            self.descriptor::<AtomicU8>(head, INFLIGHT).store(0, Ordering::Relaxed);
        }
        self.word::<AtomicU64>(FEATURES).store(0, Ordering::Relaxed);
        self.word::<AtomicU16>(DESC_NUM).store(self.region.queue_size, Ordering::Relaxed);
        self.word::<AtomicU16>(LAST_BATCH_HEAD).store(0, Ordering::Relaxed);
        // not 0: the ring may have been in use before it had a region
        self.word::<AtomicU16>(USED_IDX).store(used_idx, Ordering::Relaxed);
        self.word::<AtomicU16>(VERSION_OFFSET).store(VERSION, Ordering::Release);
    }

    /// Finishes what a predecessor died in: the driver was shown a batch that is still noted as in flight.
    fn finish_last_batch(&self, ring_size: u16, used_idx: u16) {
        let noted = self.word::<AtomicU16>(USED_IDX).load(Ordering::Acquire);
        let batch = used_idx.wrapping_sub(noted);
        // More cannot have been in flight: the ring was set up anew since, and says nothing about this part.
        if batch <= ring_size {
            let mut head = self.word::<AtomicU16>(LAST_BATCH_HEAD).load(Ordering::Acquire);
            for _ in 0..batch {
                if head >= ring_size {
                    break;
                }
                self.descriptor::<AtomicU8>(head, INFLIGHT).store(0, Ordering::Release);
                head = self.descriptor::<AtomicU16>(head, NEXT).load(Ordering::Acquire);
            }
        }
        self.word::<AtomicU16>(USED_IDX).store(used_idx, Ordering::Release);
    }

    fn find_interrupted(&mut self, ring_size: u16) {
        let is_in_flight =
            |head: &u16| self.descriptor::<AtomicU8>(*head, INFLIGHT).load(Ordering::Acquire) != 0;
        let counted = |head| (self.descriptor::<AtomicU64>(head, COUNTER).load(Ordering::Acquire), head);
        let mut interrupted: Vec<_> = (0..ring_size).filter(is_in_flight).map(counted).collect();
        interrupted.sort_unstable();
        self.counter = interrupted.last().map_or(0, |(counter, _)| counter.wrapping_add(1));
        self.interrupted = Some(interrupted.into_iter().map(|(_, head)| head).collect());
    }

    /// A field of `QueueRegionSplit`.
    fn word<T: AtomicInteger>(&self, offset: usize) -> &T {
        let field = self.region.mapping.get_atomic_ref(self.start + offset);
        field.expect("the region was mapped for all of its queues")
    }

    /// A field of the `DescStateSplit` of `head`, which is less than the ring's size.
    fn descriptor<T: AtomicInteger>(&self, head: u16, offset: usize) -> &T {
        debug_assert!(head < self.region.queue_size);
        self.word(QUEUE_HEADER_SIZE + usize::from(head) * DESCRIPTOR_SIZE + offset)
    }
}
