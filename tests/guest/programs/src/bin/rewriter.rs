//! The guest that a protected disk must survive: rewrites its write buffers while the writes are in
//! flight.
//!
//! `rewriter DEVICE START WRITES SIZE THREADS` makes WRITES direct writes of SIZE bytes, one behind
//! another from byte START on, from THREADS threads with a buffer each, while one more thread
//! changes all the buffers without a pause. Then it reads every write back: the content of a block
//! is not defined, but it must be readable. Prints one line of JSON; its counts are of requests of
//! SIZE bytes.

use std::{
    io, iter,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use guest_programs::{BlockDevice, Page, Pages, arguments, number};

fn main() -> Result<(), String> {
    let [device, start, writes, size, threads] = arguments("rewriter DEVICE START WRITES SIZE THREADS")?;
    let device = BlockDevice::open(&device, true)?;
    let (start, writes, size): (u64, u64, usize) = (number(&start)?, number(&writes)?, number(&size)?);
    let offsets: Vec<u64> = (0..writes).map(|index| start + index * size as u64).collect();
    let new_buffer = || Pages::new(size / Page::BYTES);
    let buffers: Vec<Pages> = iter::repeat_with(new_buffer).take(number(&threads)?).collect();

    let write_errors = write_while_rewriting(&device, &buffers, &offsets);
    device.flush().map_err(|error| format!("flush: {error}"))?;
    let read_back = new_buffer();
    let read_errors = count_errors(offsets.iter().map(|offset| device.read(&read_back, *offset)));
    println!(r#"{{"writes":{writes},"write_errors":{write_errors},"read_errors":{read_errors}}}"#);
    Ok(())
}

/// Shares the writes out among one thread a buffer; returns how many failed.
fn write_while_rewriting(device: &BlockDevice, buffers: &[Pages], offsets: &[u64]) -> u64 {
    let (next, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let write_from = &|buffer: &Pages| {
        let claim = || offsets.get(next.fetch_add(1, Ordering::Relaxed));
        count_errors(iter::from_fn(claim).map(|offset| device.write(buffer, *offset)))
    };
    thread::scope(|scope| {
        scope.spawn(|| rewrite_until(&done, buffers));
        let spawn = |buffer| scope.spawn(move || write_from(buffer));
        let writers: Vec<_> = buffers.iter().map(spawn).collect();
        let errors = writers.into_iter().map(|writer| writer.join().expect("a writer panicked"));
        let write_errors = errors.sum();
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

/// Counts the errors and shows the first, so that the log explains a failure.
fn count_errors(results: impl Iterator<Item = io::Result<()>>) -> u64 {
    let mut errors = results.filter_map(Result::err);
    let Some(first) = errors.next() else { return 0 };
    eprintln!("rewriter: {first}");
    1 + errors.count() as u64
}
