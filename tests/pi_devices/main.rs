//! Storage that keeps protection information itself: stableblk and a driver for it inside a guest,
//! on emulated NVMe and SCSI devices.
//!
//! One guest has a namespace of each format. Its kernel is the independent reader: it verifies all
//! that it reads itself.

mod bench;
mod exercise;
mod namespace;
#[path = "../skip.rs"]
mod skip;

mod damage;
mod in_use;
mod kernel_pi;
mod older_kernel;
mod opaque_metadata;
mod partition;
mod passthrough;
mod scsi;
mod stable_pages;
mod swap;
