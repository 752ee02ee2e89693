//! Workers over a disk in memory: real threads, rings and eventfds, no files and no `io_uring`.
//!
//! Each file has one subject. [`guest`] is the guest's side: a test sees what a driver sees, and
//! the media.

mod gate;
mod guest;
mod latency;
mod model;
#[path = "../skip.rs"]
mod skip;

mod alignment;
mod back_pressure;
mod broken_rings;
mod device_errors;
mod fuzz_corpus;
mod large_requests;
mod media_errors;
mod random_sequences;
mod stopping;
mod turns;
mod watchdog;
mod zero_copy;
