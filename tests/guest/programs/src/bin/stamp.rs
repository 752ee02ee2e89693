//! Plain data on a disk: `stamp write DEVICE MIB SEED` fills the first MIB mebibytes, `stamp verify
//! DEVICE MIB SEED` expects that.
//!
//! Direct I/O in both directions, so that the disk answers and not the page cache.

use guest_programs::{BlockDevice, Page, Pages, arguments, number};

const REQUEST_PAGES: usize = 16;

fn main() -> Result<(), String> {
    let [action, device, mib, seed] = arguments("stamp write|verify DEVICE MIB SEED")?;
    let seed = number(&seed)?;
    let requests = (0..number::<u64>(&mib)? << 20).step_by(REQUEST_PAGES * Page::BYTES);
    match action.as_str() {
        "write" => write(&BlockDevice::open(&device, true)?, requests, seed),
        "verify" => verify(&BlockDevice::open(&device, false)?, requests, seed),
        other => Err(format!("{other}: neither write nor verify")),
    }
}

fn write(device: &BlockDevice, requests: impl Iterator<Item = u64>, seed: u64) -> Result<(), String> {
    let buffer = Pages::new(REQUEST_PAGES);
    for offset in requests {
        buffer.iter().zip(first_page(offset)..).for_each(|(page, number)| page.stamp(seed, number));
        device.write(&buffer, offset).map_err(|error| format!("write at byte {offset}: {error}"))?;
    }
    device.flush().map_err(|error| format!("flush: {error}"))
}

fn verify(device: &BlockDevice, requests: impl Iterator<Item = u64>, seed: u64) -> Result<(), String> {
    let buffer = Pages::new(REQUEST_PAGES);
    for offset in requests {
        device.read(&buffer, offset).map_err(|error| format!("read at byte {offset}: {error}"))?;
        if !buffer.iter().zip(first_page(offset)..).all(|(page, number)| page.is_stamped(seed, number)) {
            return Err(format!("byte {offset}: not what was written"));
        }
    }
    Ok(())
}

fn first_page(offset: u64) -> u64 {
    offset / Page::BYTES as u64
}
