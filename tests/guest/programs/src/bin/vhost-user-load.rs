//! Stamped load on a vhost-user disk, with notes of what was flushed: `vhost-user-load SOCKET
//! SECTORS SEED STEPS NOTES`.
//!
//! Fills the disk of SECTORS, then does the STEPS that SEED makes. After each flush it notes, in
//! the last page of the block device NOTES, the newest version that is durable. The note is not
//! flushed: its presence shows that the flush was complete.

use std::{path::Path, thread, time::Duration};

use guest_programs::{BlockDevice, Page, Pages, arguments, number};
use load::{History, Load, Plan, Step, filling};

/// Longer than a back-end's log may rest before its checkpoint.
const REST: Duration = Duration::from_millis(2100);

fn main() -> Result<(), String> {
    let [socket, sectors, seed, steps, notes] = arguments("vhost-user-load SOCKET SECTORS SEED STEPS NOTES")?;
    let (sectors, seed, steps) = (number(&sectors)?, number(&seed)?, number(&steps)?);
    let notes = Notes::open(&notes)?;
    let load = Load::start(Path::new(&socket), History::new(sectors));
    let mut load = load.map_err(|error| format!("{socket}: {}", error.message()))?;
    let plan = Plan::new(seed, sectors).take(steps).chain([Step::Flush]);
    for (number, step) in filling(sectors).chain(plan).enumerate() {
        if step != Step::Flush {
            load.submit(step);
            continue;
        }
        // now with others in flight, which may make the back-end flush what this one should, now
        // alone
        if number % 2 == 0 {
            load.drain();
        }
        load.submit(Step::Flush);
        // before anything else makes the back-end flush
        load.drain();
        notes.write(load.flushed())?;
        if number % 8 == 0 {
            thread::sleep(REST);
        }
    }
    Ok(())
}

/// The page of a block device that has the newest note.
struct Notes {
    device: BlockDevice,
    offset: u64,
}

impl Notes {
    fn open(path: &str) -> Result<Self, String> {
        let device = BlockDevice::open(path, true)?;
        let size = device.size().map_err(|error| format!("{path}: {error}"))?;
        Ok(Self { device, offset: size - Page::BYTES as u64 })
    }

    fn write(&self, version: u64) -> Result<(), String> {
        let page = Pages::new(1);
        page[0].touch_sectors(version);
        self.device.write(&page, self.offset).map_err(|error| format!("cannot note {version}: {error}"))
    }
}
