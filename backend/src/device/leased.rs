//! Storage that goes from one host to another with a live migration: held, not held yet, or held no
//! more. While it is frozen, it is closed but stays locked, so that a snapshot of its files is of
//! one moment.
//!
//! Storage that is taken over, or thawed, is opened by the same code as at the start of the
//! process, so no state from before another host has changed it is kept.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{BlockDevice, Damage, DeviceInfo, DoubtfulBytes, EventSources};
use crate::device::bounce::Arena;
use crate::device::growth_error::GrowthError;
use crate::metrics::TagLogMetrics;
use crate::storage::durability::Durability;
use crate::storage::size::StorageSize;

/// How often a hand-over looks whether the borrowers of the storage are done.
const BORROWER_POLL: Duration = Duration::from_millis(1);

/// How long the borrowers of the storage may take before it is not frozen after all.
const BORROWERS_MAX: Duration = Duration::from_secs(20);

/// Opens and locks the storage, waiting for its last holder as long as makes sense.
type Open<B> = Box<dyn Fn() -> io::Result<B> + Send + Sync>;

/// Whether this process has the storage.
enum Lease<B> {
    /// Another host has it, or may.
    Absent,
    Held(Arc<B>),
    /// It is closed, or about to be; the device is kept for its locks.
    Frozen(Arc<B>),
}

impl<B> Lease<B> {
    fn device(&self) -> Option<&Arc<B>> {
        match self {
            Self::Held(device) => Some(device),
            Self::Absent | Self::Frozen(_) => None,
        }
    }
}

/// A device that is opened when its first queue is, and closed when it is handed over.
pub struct Leased<B> {
    info: DeviceInfo,
    open: Open<B>,
    /// Never locked for a call that waits for the storage, but by [`Self::take`] and a hand-over.
    held: Mutex<Lease<B>>,
    /// Whether the frozen device is closed. Locked while it is being closed.
    closed: Mutex<bool>,
    is_frozen: AtomicBool,
    /// Whether it was handed over and could not be closed before that.
    hand_over_failed: AtomicBool,
}

impl<B> fmt::Debug for Leased<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leased").field("info", &self.info).finish_non_exhaustive()
    }
}

impl<B: BlockDevice> Leased<B> {
    /// `device`, which is held, and how it is taken again after it was handed over.
    pub fn held(device: B, open: impl Fn() -> io::Result<B> + Send + Sync + 'static) -> Self {
        let info = device.info().clone();
        Self::new(info, Lease::Held(Arc::new(device)), open)
    }

    /// A device that another host still has, and that was found to be `info`.
    pub fn awaited(info: DeviceInfo, open: impl Fn() -> io::Result<B> + Send + Sync + 'static) -> Self {
        Self::new(info, Lease::Absent, open)
    }

    fn new(
        info: DeviceInfo,
        held: Lease<B>,
        open: impl Fn() -> io::Result<B> + Send + Sync + 'static,
    ) -> Self {
        // the device that is held is asked for its durability; a copy here would keep its files
        // open
        let info = DeviceInfo { durability: Durability::default(), damage: Damage::default(), ..info };
        let hand_over_failed = AtomicBool::new(false);
        Self {
            info,
            open: Box::new(open),
            held: Mutex::new(held),
            closed: Mutex::default(),
            is_frozen: AtomicBool::new(false),
            hand_over_failed,
        }
    }

    fn lease(&self) -> MutexGuard<'_, Lease<B>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device, which is taken over if it is not held.
    fn take(&self) -> io::Result<Arc<B>> {
        let mut held = self.lease();
        match &*held {
            Lease::Held(device) => return Ok(device.clone()),
            Lease::Frozen(_) => return Err(frozen()),
            Lease::Absent => {}
        }
        let device = self.open_again()?;
        tracing::info!("took the disk over");
        self.hand_over_failed.store(false, Ordering::Relaxed);
        *held = Lease::Held(device.clone());
        Ok(device)
    }

    fn open_again(&self) -> io::Result<Arc<B>> {
        let device = (self.open)()?;
        if let Err(error) = self.refuse_other(device.info()) {
            device.close()?;
            return Err(error);
        }
        Ok(Arc::new(device))
    }

    /// The device, where it is held.
    fn borrow(&self) -> io::Result<Arc<B>> {
        match &*self.lease() {
            Lease::Held(device) => Ok(device.clone()),
            Lease::Frozen(_) => Err(frozen()),
            Lease::Absent => Err(elsewhere()),
        }
    }

    /// Closes the device if it is frozen and not closed yet. On an error it is frozen no more.
    fn close_if_frozen(&self) -> io::Result<()> {
        let mut is_closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let device = match &*self.lease() {
            Lease::Frozen(device) if !*is_closed => device.clone(),
            _ => return Ok(()),
        };
        let thawed_as = |lease| {
            *self.lease() = lease;
            self.is_frozen.store(false, Ordering::Release);
        };
        if let Err(error) = wait_for_borrowers(&device, 2) {
            thawed_as(Lease::Held(device));
            return Err(error);
        }
        let closed = device.close();
        *is_closed = closed.is_ok();
        if closed.is_err() {
            thawed_as(Lease::Absent);
        }
        closed
    }

    /// Refuses a device that differs from the one that was offered to the front-end. It may be
    /// larger.
    fn refuse_other(&self, now: &DeviceInfo) -> io::Result<()> {
        let DeviceInfo { capacity, granule, memory_alignment, protection, .. } = &self.info;
        let same =
            (granule, memory_alignment, protection) == (&now.granule, &now.memory_alignment, &now.protection);
        if now.capacity.get() < capacity.get() || !same {
            let reason = "the disk is not what it was when this process was started: restart it";
            return Err(io::Error::other(reason));
        }
        Ok(())
    }
}

impl<B: BlockDevice> BlockDevice for Leased<B> {
    type Queue = B::Queue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<B::Queue> {
        self.take()?.open_queue(arena, sources)
    }

    fn open_queue_if_held(
        self: &Arc<Self>,
        arena: &Arena,
        sources: EventSources<'_>,
    ) -> io::Result<Option<B::Queue>> {
        let held = self.lease().device().cloned();
        held.map(|device| device.open_queue(arena, sources)).transpose()
    }

    fn durability(&self) -> Durability {
        match &*self.lease() {
            Lease::Held(device) | Lease::Frozen(device) => device.durability(),
            Lease::Absent => self.info.durability.clone(),
        }
    }

    fn damage(&self) -> Damage {
        match &*self.lease() {
            Lease::Held(device) | Lease::Frozen(device) => device.damage(),
            Lease::Absent => self.info.damage.clone(),
        }
    }

    fn damage_if_known(&self) -> Option<Damage> {
        let held = self.held.try_lock().ok()?;
        held.device().map(|device| device.damage())
    }

    fn crash_doubt(&self) -> Option<DoubtfulBytes> {
        // the device may be in the course of being opened or handed over, which takes its time
        let held = self.held.try_lock().ok()?;
        held.device().and_then(|device| device.crash_doubt())
    }

    fn tag_log(&self) -> Option<Arc<TagLogMetrics>> {
        let held = self.held.try_lock().ok()?;
        held.device().and_then(|device| device.tag_log())
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.borrow()?.next_data(offset)
    }

    fn is_held(&self) -> bool {
        self.lease().device().is_some()
    }

    fn measure(&self) -> io::Result<StorageSize> {
        self.borrow()?.measure()
    }

    fn prepare_growth(&self, size: u64) -> Result<(), GrowthError> {
        self.borrow()?.prepare_growth(size)
    }

    fn grow(&self, size: u64) -> Result<(), GrowthError> {
        self.borrow()?.grow(size)?;
        // a device that was opened again has a capacity of its own
        self.info.capacity.grow(size);
        Ok(())
    }

    fn freeze(&self) -> io::Result<()> {
        let mut is_closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut held = self.lease();
        *held = match std::mem::replace(&mut *held, Lease::Absent) {
            Lease::Held(device) => Lease::Frozen(device),
            Lease::Absent => return Err(elsewhere()),
            already @ Lease::Frozen(_) => already,
        };
        *is_closed = false;
        self.is_frozen.store(true, Ordering::Release);
        Ok(())
    }

    fn close_frozen(&self) -> io::Result<()> {
        self.close_if_frozen()
    }

    fn thaw(&self) -> io::Result<()> {
        let mut held = self.lease();
        let opened = match std::mem::replace(&mut *held, Lease::Absent) {
            // its locks have to go first
            Lease::Frozen(device) => {
                let damage = device.damage();
                drop(device);
                self.open_again().map(|device| {
                    device.damage().continue_from(&damage);
                    *held = Lease::Held(device);
                })
            }
            other => {
                *held = other;
                Ok(())
            }
        };
        self.is_frozen.store(false, Ordering::Release);
        opened
    }

    fn is_frozen(&self) -> bool {
        self.is_frozen.load(Ordering::Acquire)
    }

    fn close(&self) -> io::Result<()> {
        self.close_if_frozen()?;
        match std::mem::replace(&mut *self.lease(), Lease::Absent) {
            Lease::Held(device) => device.close(),
            Lease::Absent if self.hand_over_failed.load(Ordering::Relaxed) => {
                Err(io::Error::other("it was handed over without being closed: see the log above"))
            }
            Lease::Absent | Lease::Frozen(_) => Ok(()),
        }
    }

    fn hand_over(&self) -> io::Result<()> {
        let frozen = self.close_if_frozen();
        // locked to the end: no caller sees that it is not held before it is closed
        let mut held = self.lease();
        let closed = match std::mem::replace(&mut *held, Lease::Absent) {
            Lease::Held(device) => {
                device.interrupt_growth();
                // No queue of a session is left, but a flush or the preparation of a growth may
                // still use it. They end by themselves, and no new one can begin.
                while Arc::strong_count(&device) > 1 {
                    thread::sleep(BORROWER_POLL);
                }
                // the device is dropped then, which closes the files and so unlocks them
                device.close()
            }
            Lease::Frozen(_) => Ok(()),
            Lease::Absent if frozen.is_err() => frozen,
            Lease::Absent => return Ok(()),
        };
        self.is_frozen.store(false, Ordering::Release);
        if closed.is_ok() {
            tracing::info!("handed the disk over");
        }
        self.hand_over_failed.store(closed.is_err(), Ordering::Relaxed);
        closed
    }
}

/// Waits until `device` has no other owner than `owners` of this file.
fn wait_for_borrowers<B>(device: &Arc<B>, owners: usize) -> io::Result<()> {
    let deadline = Instant::now() + BORROWERS_MAX;
    while Arc::strong_count(device) > owners {
        if Instant::now() > deadline {
            let seconds = BORROWERS_MAX.as_secs();
            let reason = format!("it is still in use after {seconds} s, by a flush that hangs");
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
        thread::sleep(BORROWER_POLL);
    }
    Ok(())
}

fn frozen() -> io::Error {
    io::Error::other("the disk is frozen")
}

fn elsewhere() -> io::Error {
    io::Error::other("another host has the disk")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc::{self, TryRecvError};

    use super::*;
    use crate::device::OwnEvents;
    use crate::device::bounce::FolioPool;
    use crate::device::mem::MemDevice;

    fn mem() -> MemDevice {
        MemDevice::new(None, 1 << 20)
    }

    #[test]
    fn a_hand_over_waits_until_the_disk_is_given_back() {
        let leased = Arc::new(Leased::held(mem(), || panic!("the disk is not taken again")));
        let pool = FolioPool::reserve(0).unwrap();
        let events = OwnEvents::new().unwrap();
        let sources = events.sources();
        let borrowed = leased.open_queue_if_held(pool.arena(), sources).unwrap();
        assert!(borrowed.is_some());
        let (started, id) = mpsc::channel();
        let (done, handed_over) = mpsc::channel();
        let source = leased.clone();
        let hand_over = thread::spawn(move || {
            started.send(rustix::thread::gettid()).unwrap();
            done.send(source.hand_over()).unwrap();
        });
        // the only sleep in a hand-over is the one in which it waits for borrowers
        let call = format!("/proc/self/task/{}/syscall", id.recv().unwrap());
        let sleep = format!("{} ", libc::SYS_clock_nanosleep);
        while !fs::read_to_string(&call).unwrap().starts_with(&sleep) {
            thread::yield_now();
        }
        let early = handed_over.try_recv();
        assert!(matches!(early, Err(TryRecvError::Empty)), "{early:?}");
        drop(borrowed);
        handed_over.recv().unwrap().unwrap();
        hand_over.join().unwrap();
        assert!(leased.open_queue_if_held(pool.arena(), sources).unwrap().is_none(), "it was taken back");
    }
}
