#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stableblk_fuzz::messages::run(input));
