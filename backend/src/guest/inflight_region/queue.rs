//! The part of the region for one queue: `QueueRegionSplit` of the vhost-user specification.
//!
//! ```text
//! pop      desc[head].counter, then .inflight = 1
//! publish  for each head: desc[head].next = last_batch_head, last_batch_head = head
//!          the used ring's index
//!          for each head: desc[head].inflight = 0
//!          used_idx = the used ring's index
//! ```
//!
//! The process may be killed at any instant. A used index other than `used_idx` shows that a batch
//! was published and how large it was, and the list from `last_batch_head` shows which chains it
//! had, so that none of them is returned again. Each store is a release: a reader that sees one
//! sees all earlier ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use vm_memory::{AtomicInteger, VolatileMemory};

use super::{DESCRIPTOR_SIZE, InflightError, InflightRegion, QUEUE_HEADER_SIZE, queue_len};

/// The version of this layout. A part of version 0 was never used.
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
    /// The chains that the next used index covers.
    batch: Vec<u16>,
    /// The chains that a predecessor had in flight, in the order in which it had popped them;
    /// `None` when there was no predecessor.
    interrupted: Option<Vec<u16>>,
}

impl InflightQueue {
    /// Takes over the part of queue `index`, whose ring has `ring_size` entries and stands at
    /// `used_idx`. [`Self::take_interrupted`] then has the chains that a predecessor had in flight.
    /// `None` when the region has no such queue.
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

    /// The chains that a predecessor popped and did not return, in that order. The second call
    /// returns none.
    pub fn take_interrupted(&mut self) -> Vec<u16> {
        self.interrupted.take().unwrap_or_default()
    }

    /// The number of chains in [`Self::take_interrupted`]; `None` when the part was never used, so
    /// that it is not known.
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

    /// The used index became `used_idx`, which covers all chains given to [`Self::publishing`].
    pub fn published(&mut self, used_idx: u16) {
        for &head in &self.batch {
            self.descriptor::<AtomicU8>(head, INFLIGHT).store(0, Ordering::Release);
        }
        self.batch.clear();
        self.word::<AtomicU16>(USED_IDX).store(used_idx, Ordering::Release);
    }

    /// Initialises a part that was never used. The version is stored last: a process that is killed
    /// before leaves an unused part.
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

    /// Finishes the last batch of a predecessor: the driver was shown it, and it may still be noted
    /// as in flight.
    fn finish_last_batch(&self, ring_size: u16, used_idx: u16) {
        let noted = self.word::<AtomicU16>(USED_IDX).load(Ordering::Acquire);
        let batch = used_idx.wrapping_sub(noted);
        // more cannot have been in flight: then the ring was set up again since, and this part is
        // of another ring
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
