//! Protection information against published values, a plain implementation and other crates.

mod fuzz_corpus;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../../fuzz/src/targets.rs"]
mod fuzz_targets;
mod guards;
#[expect(unreachable_pub, dead_code, reason = "another target needs all of it")]
#[path = "../../fuzz/src/input.rs"]
mod input;
mod interleaved;
mod kernel;
mod lengths;
mod lists;
mod profiles;
mod reference;
mod remap;
mod single_bit;
mod strategies;
mod tuples;
mod vectors;
mod verdicts;
