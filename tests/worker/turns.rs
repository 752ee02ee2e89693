//! How much a worker gives its device at a time.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use stableblk::device::bounce::Arena;
use stableblk::device::mem::MemDevice;
use stableblk::device::operation::DeviceOperation;
use stableblk::device::{BlockDevice, DeviceInfo, DeviceQueue, Event, EventSources};

use crate::guest::{Command, Guest, Layout, OK, Setup, guest_memory};

/// A disk in memory that notes how its queue is used.
#[derive(Debug)]
struct NotingDevice {
    disk: Arc<MemDevice>,
    notes: Arc<Notes>,
}

#[derive(Debug, Default)]
struct Notes {
    /// How long the device takes to be given operations.
    slowness: Duration,
    asleep: Mutex<bool>,
    fell_asleep: Condvar,
    /// Operations submitted between two calls of `enter`.
    batches: Mutex<Vec<usize>>,
}

impl Notes {
    fn device(self: &Arc<Self>) -> Arc<NotingDevice> {
        Arc::new(NotingDevice { disk: Arc::new(MemDevice::new(None, 1 << 20)), notes: self.clone() })
    }

    fn until_asleep(&self) {
        drop(self.fell_asleep.wait_while(self.asleep.lock().unwrap(), |asleep| !*asleep).unwrap());
    }
}

impl BlockDevice for NotingDevice {
    type Queue = NotingQueue;

    fn info(&self) -> &DeviceInfo {
        self.disk.info()
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<NotingQueue> {
        Ok(NotingQueue {
            queue: self.disk.open_queue(arena, sources)?,
            notes: self.notes.clone(),
            submitted: 0,
        })
    }

    fn close(&self) -> io::Result<()> {
        self.disk.close()
    }
}

#[derive(Debug)]
struct NotingQueue {
    queue: <MemDevice as BlockDevice>::Queue,
    notes: Arc<Notes>,
    submitted: usize,
}

impl DeviceQueue for NotingQueue {
    fn submit(&mut self, operation: DeviceOperation) {
        self.submitted += 1;
        self.queue.submit(operation);
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        if self.submitted > 0 {
            self.notes.batches.lock().unwrap().push(std::mem::take(&mut self.submitted));
            thread::sleep(self.notes.slowness);
        }
        if wait {
            *self.notes.asleep.lock().unwrap() = true;
            self.notes.fell_asleep.notify_all();
        }
        self.queue.enter(wait)
    }

    fn enter_for(&mut self, limit: Duration) -> io::Result<()> {
        self.queue.enter_for(limit)
    }

    fn has_work(&mut self) -> bool {
        self.queue.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        self.queue.reap()
    }
}

#[test]
fn an_idle_device_is_given_a_few_requests_before_the_others_are_prepared() {
    let notes = Arc::new(Notes::default());
    let memory = guest_memory(1);
    let mut guest = Guest::start(&memory, notes.device(), Setup::default());
    let reads: Vec<_> = (0..32)
        .map(|sector| guest.lay_out(0, &Command::Read { sector, len: 512 }, &Layout::default()))
        .collect();
    notes.until_asleep();
    guest.make_all_available(&reads);
    while guest.outstanding() > 0 {
        guest.wait().iter().for_each(|completion| assert_eq!(completion.outcome(), (OK, 513)));
    }
    guest.stop_all();
    assert_eq!(*notes.batches.lock().unwrap(), [2, 2, 2, 2, 2, 3, 4, 5, 7, 3]);
}

/// The time that work takes which was found in time does not count as polling time.
#[test]
fn work_that_a_poll_has_found_does_not_count_as_polling_time() {
    let poll = Duration::from_millis(300);
    let notes = Arc::new(Notes { slowness: poll + poll / 4, ..Notes::default() });
    let memory = guest_memory(1);
    let mut guest = Guest::start(&memory, notes.device(), Setup { poll, ..Setup::default() });
    for sector in 0..2 {
        let read = guest.submit(0, &Command::Read { sector, len: 512 });
        let [read] = guest.wait_for([read]);
        assert_eq!(read.outcome(), (OK, 513));
    }
    assert!(!*notes.asleep.lock().unwrap(), "it polled without result, or fell asleep at once");
    guest.stop_all();
}
