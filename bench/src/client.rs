//! A virtio-blk driver that keeps every queue full, and measures.
//!
//! One thread drives all queues and polls for completions, so the figures are the back-end's, not
//! those of waking a client.

use std::mem::MaybeUninit;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use blkio::{Blkio, BlkioStartOutcome, Blkioq, Completion, MemoryRegion, ReqFlags};
use hdrhistogram::Histogram;

use crate::content;
use crate::error::BenchError;
use crate::places::Places;
use crate::workload::{Pattern, Workload};

/// A back-end that has made its socket may not yet listen on it.
const CONNECT_TIME: Duration = Duration::from_secs(5);
const CONNECT_INTERVAL: Duration = Duration::from_millis(1);
/// No request takes that long unless the back-end has lost it.
const STALL_TIME: Duration = Duration::from_secs(10);
/// Completions taken at a time.
const BATCH: usize = 64;
/// Bytes of a request that is only there to have been made.
const TOUCH_LEN: usize = 4096;
/// Descriptors of a request: header, data, status. The client has no indirect ones.
const DESCRIPTORS: usize = 3;
/// Latencies from a nanosecond to a minute, in three digits.
const HISTOGRAM_BOUNDS: (u64, u64, u8) = (1, 60_000_000_000, 3);

/// The counts of a window of time.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Latencies in nanoseconds, from the moment the client had the request to submit until it saw
    /// it completed.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) window: Duration,
    /// The part of the window in which the client had work; it polled without success for the rest.
    pub(crate) client_busy: Duration,
}

/// A connected driver with its buffers.
pub(crate) struct Client {
    // dropped before the memory it uses
    queues: Vec<Blkioq>,
    _blkio: Blkio,
    memory: MemoryRegion,
    workload: Workload,
    /// Bytes of the disk that requests are for.
    disk: u64,
    places: Places,
    /// The direction of requests where there are both.
    random: fastrand::Rng,
    /// When the request of each slot was given. A slot is a buffer, and the place of a request in
    /// its queue.
    begun: Vec<Instant>,
    /// Slots whose write is done and whose flush is not.
    flushing: Vec<bool>,
    /// Writes since the last flush.
    unflushed: u32,
    in_flight: usize,
    /// Bytes of all writes so far.
    written: u64,
    /// More threads want to run than there are cores, so polling without success would keep one
    /// from its work.
    yields: bool,
}

impl Client {
    pub(crate) fn connect(socket: &Path, workload: Workload) -> Result<Self, BenchError> {
        let mut blkio = connect(socket)?;
        let set_up = BenchError::client("set up its queues");
        let to_i32 = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let ring_size = (DESCRIPTORS * workload.depth).next_power_of_two().max(128);
        blkio.set_i32("num-queues", to_i32(workload.queues)).map_err(&set_up)?;
        blkio.set_i32("queue-size", to_i32(ring_size)).map_err(&set_up)?;
        let disk = blkio.get_u64("capacity").map_err(&set_up)?;
        let blocks = disk / workload.block_size as u64;
        if blocks == 0 {
            return Err(BenchError::DiskTooSmall { disk, block_size: workload.block_size });
        }
        let BlkioStartOutcome { queues, .. } = blkio.start().map_err(&set_up)?;
        let slots = workload.depth * workload.queues;
        let share = BenchError::client("share its memory");
        let mut memory = blkio.alloc_mem_region(workload.block_size * slots).map_err(&share)?;
        blkio.map_mem_region(&memory).map_err(&share)?;
        if workload.pattern != Pattern::Randread {
            content::fill(buffers(&mut memory));
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            queues,
            _blkio: blkio,
            memory,
            workload,
            disk: blocks * workload.block_size as u64,
            places: Places::new(workload.distribution, blocks),
            random: fastrand::Rng::with_seed(1),
            begun: vec![Instant::now(); slots],
            flushing: vec![false; slots],
            unflushed: 0,
            in_flight: 0,
            written: 0,
            yields: workload.queues + 1 > cores,
        })
    }

    /// Keeps every queue full for `time`. Requests in flight at the end stay in flight.
    pub(crate) fn drive(&mut self, time: Duration) -> Result<Counted, BenchError> {
        let start = Instant::now();
        if self.in_flight == 0 {
            (0..self.begun.len()).for_each(|slot| self.submit(slot, start));
            self.in_flight = self.begun.len();
        }
        let mut latencies = no_latencies();
        let (mut now, mut last_completion, mut client_busy) = (start, start, Duration::ZERO);
        let mut submitted = vec![true; self.queues.len()];
        while now - start < time {
            let mut idle = true;
            for (queue, submitted) in submitted.iter_mut().enumerate() {
                let before = now;
                let mut done = [const { MaybeUninit::uninit() }; BATCH];
                let completions = self.poll(queue, &mut done)?;
                now = Instant::now();
                for completion in completions {
                    let slot = completed(completion)?;
                    if self.follow_by_flush(slot) {
                        continue;
                    }
                    latencies.saturating_record(nanoseconds(now - self.begun[slot]));
                    self.submit(slot, now);
                }
                let worked = !completions.is_empty();
                if worked {
                    (last_completion, now, idle) = (now, Instant::now(), false);
                }
                // the first look after a submission notifies the back-end
                if worked || *submitted {
                    client_busy += now - before;
                }
                *submitted = worked;
            }
            if idle {
                self.wait_a_moment(now - last_completion)?;
            }
        }
        Ok(Counted { latencies, window: now - start, client_busy })
    }

    /// Gives one request after each of `rests`, and waits for it.
    pub(crate) fn drive_after_rests(&mut self, rests: u32, rest: Duration) -> Result<Counted, BenchError> {
        let start = Instant::now();
        let (mut latencies, mut client_busy) = (no_latencies(), Duration::ZERO);
        for _ in 0..rests {
            thread::sleep(rest);
            let begun = Instant::now();
            self.submit(0, begun);
            self.in_flight += 1;
            self.complete_all(|_, _| {})?;
            let latency = begun.elapsed();
            client_busy += latency;
            latencies.saturating_record(nanoseconds(latency));
        }
        Ok(Counted { latencies, window: start.elapsed(), client_busy })
    }

    /// Bytes that were written since it connected.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Reads or writes `TOUCH_LEN` bytes in every `distance` of the disk, so that what the first
    /// request to a part of it costs is no part of the figures.
    pub(crate) fn touch(&mut self, distance: u64, is_read: bool) -> Result<(), BenchError> {
        let len = TOUCH_LEN.min(self.workload.block_size);
        let distance = usize::try_from(distance).unwrap_or(usize::MAX).max(len);
        let mut places = (0..self.disk).step_by(distance);
        let mut touch = |client: &mut Self, slot| {
            if let Some(place) = places.next() {
                client.give(slot, (place, len), is_read);
                client.in_flight += 1;
            }
        };
        (0..self.begun.len()).for_each(|slot| touch(self, slot));
        self.complete_all(touch)
    }

    /// Waits for what is in flight. Then every buffer that was read into must hold what the whole
    /// disk holds, unless the disk is one that stores nothing.
    pub(crate) fn drain(&mut self, stores: bool) -> Result<(), BenchError> {
        self.complete_all(|_, _| {})?;
        if stores && !content::is_that_of_the_disk(buffers(&mut self.memory)) {
            return Err(BenchError::WrongData);
        }
        Ok(())
    }

    /// Until nothing is in flight. `next` may give more for a slot.
    fn complete_all(&mut self, mut next: impl FnMut(&mut Self, usize)) -> Result<(), BenchError> {
        let mut last_completion = Instant::now();
        while self.in_flight > 0 {
            for queue in 0..self.queues.len() {
                let mut done = [const { MaybeUninit::uninit() }; BATCH];
                for completion in self.poll(queue, &mut done)? {
                    let slot = completed(completion)?;
                    self.in_flight -= 1;
                    last_completion = Instant::now();
                    next(self, slot);
                }
            }
            self.wait_a_moment(last_completion.elapsed())?;
        }
        Ok(())
    }

    fn poll<'a>(
        &mut self,
        queue: usize,
        done: &'a mut [MaybeUninit<Completion>],
    ) -> Result<&'a [MaybeUninit<Completion>], BenchError> {
        let count = self.queues[queue].do_io(done, 0, None, None);
        Ok(&done[..count.map_err(BenchError::client("drive its queue"))?])
    }

    fn submit(&mut self, slot: usize, now: Instant) {
        let offset = self.places.next() * self.workload.block_size as u64;
        let is_read = match self.workload.pattern {
            Pattern::Randread => true,
            Pattern::Randwrite => false,
            Pattern::Randrw => self.random.u8(..100) < Pattern::READ_SHARE,
        };
        self.begun[slot] = now;
        self.give(slot, (offset, self.workload.block_size), is_read);
    }

    /// Begins the flush that belongs to the write of `slot`, if one does. The two are one request.
    fn follow_by_flush(&mut self, slot: usize) -> bool {
        if self.workload.flush_every == 0 || std::mem::take(&mut self.flushing[slot]) {
            return false;
        }
        self.unflushed += 1;
        if self.unflushed < self.workload.flush_every {
            return false;
        }
        self.unflushed = 0;
        self.flushing[slot] = true;
        self.queues[slot / self.workload.depth].flush(slot, ReqFlags::empty());
        true
    }

    fn give(&mut self, slot: usize, (offset, len): (u64, usize), is_read: bool) {
        let buffer = (self.memory.addr + slot * self.workload.block_size) as *mut u8;
        let queue = &mut self.queues[slot / self.workload.depth];
        if is_read {
            queue.read(offset, buffer, len, slot, ReqFlags::empty());
        } else {
            self.written += len as u64;
            queue.write(offset, buffer, len, slot, ReqFlags::empty());
        }
    }

    fn wait_a_moment(&self, stalled: Duration) -> Result<(), BenchError> {
        if stalled > STALL_TIME {
            return Err(BenchError::Stalled(STALL_TIME));
        }
        if self.yields {
            thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
        Ok(())
    }
}

fn no_latencies() -> Histogram<u64> {
    let (low, high, digits) = HISTOGRAM_BOUNDS;
    Histogram::new_with_bounds(low, high, digits).expect("valid bounds")
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn connect(socket: &Path) -> Result<Blkio, BenchError> {
    let set_up = BenchError::client("be set up");
    let deadline = Instant::now() + CONNECT_TIME;
    loop {
        let mut blkio = Blkio::new("virtio-blk-vhost-user").map_err(&set_up)?;
        blkio.set_str("path", &socket.to_string_lossy()).map_err(&set_up)?;
        match blkio.connect() {
            Ok(()) => return Ok(blkio),
            Err(_) if Instant::now() < deadline => thread::sleep(CONNECT_INTERVAL),
            Err(error) => return Err(BenchError::client("connect")(error)),
        }
    }
}

#[expect(unsafe_code, reason = "blkio gives memory as an address")]
fn buffers(memory: &mut MemoryRegion) -> &mut [u8] {
    // SAFETY: the region is mapped, readable and writable, for as long as the client has it;
    // callers hold the slice only while no request is in flight.
    unsafe { std::slice::from_raw_parts_mut(memory.addr as *mut u8, memory.len) }
}

/// The slot of a request that succeeded.
#[expect(unsafe_code, reason = "blkio gives completions as MaybeUninit")]
fn completed(completion: &MaybeUninit<Completion>) -> Result<usize, BenchError> {
    // SAFETY: do_io initialized the completions that it counted.
    let completion = unsafe { completion.assume_init_ref() };
    if completion.ret == 0 {
        Ok(completion.user_data)
    } else {
        Err(BenchError::RequestFailed(completion.ret))
    }
}
