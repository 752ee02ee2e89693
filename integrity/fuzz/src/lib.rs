//! Fuzz targets of `stableblk-integrity`: `cargo +nightly fuzz run verify`, or `RUSTC_BOOTSTRAP=1`
//! on stable.

mod input;
pub mod recover;
#[path = "../../tests/pi/reference.rs"]
mod reference;
pub mod targets;
