//! The fuzzers' corpora, replayed through the fuzz targets: what fuzzing once reached stays tested.

use std::fs;
use std::path::Path;

#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../../backend/fuzz/src/input.rs"]
mod input;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../../backend/fuzz/src/request.rs"]
mod request;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../../backend/fuzz/src/worker.rs"]
mod worker;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let inputs: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty(), "no corpus in {}", corpus.display());
    for input in inputs {
        println!("{}", input.display());
        run(&fs::read(&input).unwrap());
    }
}

#[test]
fn requests() {
    replay("request", request::run);
}

#[test]
fn workers() {
    replay("worker", worker::run);
}
