//! Fuzz targets of `stableblk`: `cargo +nightly fuzz run worker`, or `RUSTC_BOOTSTRAP=1` on stable.

pub mod disk;
#[path = "../../../integrity/fuzz/src/input.rs"]
pub mod input;
pub mod messages;
pub mod request;
pub mod worker;
