//! Tests that not every machine can run.

use std::io::Write;
use std::{io, thread};

/// Says that a test does not run, past the test harness, which shows nothing of a test that ends
/// well.
pub(crate) fn skip(reason: &str) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    io::stderr().write_all(format!("SKIPPED {name}: {reason}\n").as_bytes()).unwrap();
}
