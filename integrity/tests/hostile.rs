//! Untrusted sidecars and images: see the fuzz target `recover`, of which this runs what it has
//! kept, and some inputs by chance.

#[path = "../../tests/corpus.rs"]
mod corpus;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../fuzz/src/input.rs"]
mod input;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../fuzz/src/recover/mod.rs"]
mod recover;

use proptest::prelude::*;

#[test]
fn inputs_that_fuzzing_kept_do_no_harm() {
    corpus::replay(env!("CARGO_MANIFEST_DIR"), "recover", recover::run);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_input_does_no_harm(input in prop::collection::vec(any::<u8>(), 0..400)) {
        recover::run(&input);
    }
}
