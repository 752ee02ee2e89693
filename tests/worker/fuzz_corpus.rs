//! The fuzzers' corpora, replayed through the fuzz targets.

#[path = "../corpus.rs"]
mod corpus;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../../backend/fuzz/src/disk.rs"]
mod disk;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../../integrity/fuzz/src/input.rs"]
mod input;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../../backend/fuzz/src/request.rs"]
mod request;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../../backend/fuzz/src/worker.rs"]
mod worker;

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn requests() {
    corpus::replay(CRATE, "request", request::run);
}

#[test]
fn workers() {
    corpus::replay(CRATE, "worker", worker::run);
}
