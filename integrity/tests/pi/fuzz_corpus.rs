//! The fuzzers' corpora, replayed through the fuzz targets.

#[path = "../../../tests/corpus.rs"]
mod corpus;

use crate::fuzz_targets;

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn parse() {
    corpus::replay(CRATE, "parse", fuzz_targets::parse);
}

#[test]
fn verify() {
    corpus::replay(CRATE, "verify", fuzz_targets::verify);
}
