#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| stableblk_integrity_fuzz::recover::run(input));
