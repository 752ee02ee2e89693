//! The fuzzers' corpora, replayed through the fuzz targets: what fuzzing once reached stays tested.

use std::fs;
use std::path::Path;

use crate::fuzz_targets;

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
fn parse() {
    replay("parse", fuzz_targets::parse);
}

#[test]
fn verify() {
    replay("verify", fuzz_targets::verify);
}
