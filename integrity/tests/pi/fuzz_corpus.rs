//! The fuzzers' corpora, replayed through the fuzz targets.

#[path = "../../../tests/corpus.rs"]
mod corpus;

use crate::fuzz_targets;

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn the_parse_corpus_does_no_harm() {
    corpus::replay(CRATE, "parse", fuzz_targets::parse);
}

#[test]
fn the_verify_corpus_does_no_harm() {
    corpus::replay(CRATE, "verify", fuzz_targets::verify);
}
