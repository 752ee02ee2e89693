//! Storage that goes from one host to another with a live migration: held, not held yet, or held no
//! more.
//!
//! Storage that is taken over is opened by the same code as at the start of the process, so no
//! state from before another host has changed it is kept.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{BlockDevice, DeviceInfo, DoubtfulBytes, EventSources};
use crate::device::bounce::Arena;
use crate::device::growth_error::GrowthError;
use crate::storage::durability::Durability;
use crate::storage::size::StorageSize;

/// How often a hand-over looks whether the borrowers of the storage are done.
const BORROWER_POLL: Duration = Duration::from_millis(1);

/// Opens and locks the storage, waiting for its last holder as long as makes sense.
type Open<B> = Box<dyn Fn() -> io::Result<B> + Send + Sync>;

/// A device that is opened when its first queue is, and closed when it is handed over.
pub struct Leased<B> {
    info: DeviceInfo,
    open: Open<B>,
    held: Mutex<Option<Arc<B>>>,
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
        Self::new(info, Some(Arc::new(device)), open)
    }

    /// A device that another host still has, and that was found to be `info`.
    pub fn awaited(info: DeviceInfo, open: impl Fn() -> io::Result<B> + Send + Sync + 'static) -> Self {
        Self::new(info, None, open)
    }

    fn new(
        info: DeviceInfo,
        held: Option<Arc<B>>,
        open: impl Fn() -> io::Result<B> + Send + Sync + 'static,
    ) -> Self {
        // the device that is held is asked for its durability; a copy here would keep its files
        // open
        let info = DeviceInfo { durability: Durability::default(), ..info };
        let hand_over_failed = AtomicBool::new(false);
        Self { info, open: Box::new(open), held: Mutex::new(held), hand_over_failed }
    }

    fn lease(&self) -> MutexGuard<'_, Option<Arc<B>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device, which is taken over if it is not held.
    fn take(&self) -> io::Result<Arc<B>> {
        let mut held = self.lease();
        if let Some(device) = &*held {
            return Ok(device.clone());
        }
        let device = (self.open)()?;
        if let Err(error) = self.refuse_other(device.info()) {
            device.close()?;
            return Err(error);
        }
        tracing::info!("took the disk over");
        self.hand_over_failed.store(false, Ordering::Relaxed);
        Ok(held.insert(Arc::new(device)).clone())
    }

    /// The device, where it is held.
    fn borrow(&self) -> io::Result<Arc<B>> {
        let held = self.lease().clone();
        held.ok_or_else(|| io::Error::other("another host has the disk"))
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
        let held = self.lease().clone();
        held.map(|device| device.open_queue(arena, sources)).transpose()
    }

    fn durability(&self) -> Durability {
        self.lease().as_ref().map_or_else(|| self.info.durability.clone(), |device| device.durability())
    }

    fn crash_doubt(&self) -> Option<DoubtfulBytes> {
        // the device may be in the course of being opened or handed over, which takes its time
        let held = self.held.try_lock().ok()?;
        held.as_ref().and_then(|device| device.crash_doubt())
    }

    fn is_held(&self) -> bool {
        self.lease().is_some()
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

    fn close(&self) -> io::Result<()> {
        match self.lease().take() {
            Some(device) => device.close(),
            None if self.hand_over_failed.load(Ordering::Relaxed) => {
                Err(io::Error::other("it was handed over without being closed: see the log above"))
            }
            None => Ok(()),
        }
    }

    fn hand_over(&self) -> io::Result<()> {
        // locked to the end: no caller sees that it is not held before it is closed
        let mut held = self.lease();
        let Some(device) = held.take() else {
            return Ok(());
        };
        device.interrupt_growth();
        // No queue of a session is left, but a flush or the preparation of a growth may still use
        // it. They end by themselves, and no new one can begin.
        while Arc::strong_count(&device) > 1 {
            thread::sleep(BORROWER_POLL);
        }
        let closed = device.close();
        // which closes the files and so unlocks them
        drop(device);
        if closed.is_ok() {
            tracing::info!("handed the disk over");
        }
        self.hand_over_failed.store(closed.is_err(), Ordering::Relaxed);
        closed
    }
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
