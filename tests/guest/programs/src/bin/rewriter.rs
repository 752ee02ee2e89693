//! The guest that a protected disk must survive: rewrites its write buffers while the writes are in flight.
//!
//! `rewriter DEVICE WRITES SIZE THREADS` makes WRITES direct writes of SIZE bytes, one after another over the device, from THREADS
//! threads with a buffer each, while one more thread changes all the buffers without a pause. Then it reads every write back: what a
//! block holds is not defined, but it must be readable. Prints one line of JSON; its counts are of requests of SIZE bytes.

use std::{
    io, iter,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use guest_programs::{BlockDevice, Page, Pages, arguments, number};

fn main() -> Result<(), String> {
    let [device, writes, size, threads] = arguments("rewriter DEVICE WRITES SIZE THREADS")?;
    let device = BlockDevice::open(&device, true)?;
    let (writes, size): (u64, usize) = (number(&writes)?, number(&size)?);
    let new_buffer = || Pages::new(size / Page::BYTES);
    let buffers: Vec<Pages> = iter::repeat_with(new_buffer).take(number(&threads)?).collect();

    let write_errors = write_while_rewriting(&device, &buffers, writes);
    device.flush().map_err(|error| format!("flush: {error}"))?;
    let read_back = new_buffer();
    let read_errors = count_errors((0..writes).map(|index| device.read(&read_back, index * size as u64)));
    println!(r#"{{"writes":{writes},"write_errors":{write_errors},"read_errors":{read_errors}}}"#);
    Ok(())
}

/// Shares the writes out among one thread a buffer; returns how many failed.
fn write_while_rewriting(device: &BlockDevice, buffers: &[Pages], writes: u64) -> u64 {
    let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let write_claimed = &|buffer: &Pages| {
        let claimed = iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        let mine = claimed.take_while(|&index| index < writes);
        count_errors(mine.map(|index| device.write(buffer, index * buffer.byte_len() as u64)))
    };
    thread::scope(|scope| {
        scope.spawn(|| rewrite_until(&done, buffers));
        let start = |buffer| scope.spawn(move || write_claimed(buffer));
        let threads: Vec<_> = buffers.iter().map(start).collect();
        let write_errors = threads
            .into_iter()
            .map(|thread| thread.join().expect("a writer panicked"))
            .sum();
        done.store(true, Ordering::Relaxed);
        write_errors
    })
}

fn rewrite_until(done: &AtomicBool, buffers: &[Pages]) {
    let mut sweep = 0;
    while !done.load(Ordering::Relaxed) {
        sweep += 1;
        for page in buffers.iter().flat_map(|buffer| buffer.iter()) {
            page.touch_sectors(sweep);
        }
    }
}

/// Counts the errors and shows the first, so that a failure can be told from its log.
fn count_errors(results: impl Iterator<Item = io::Result<()>>) -> u64 {
    let mut errors = results.filter_map(Result::err);
    let Some(first) = errors.next() else { return 0 };
    eprintln!("rewriter: {first}");
    1 + errors.count() as u64
}
