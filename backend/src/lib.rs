//! The stableblk process: a vhost-user-blk back-end that keeps guest writes stable and protected.
//!
//! ARCHITECTURE.md has the map. [`command`] has the subcommands, [`control`] the thread that
//! supervises a disk, [`session`] the vhost-user protocol, [`worker`] the path of a request,
//! [`device`] the devices that hold the blocks, [`storage`] files and locks, [`guest`] the memory
//! and descriptors that the front-end shares.

pub mod command;
pub mod control;
pub mod device;
pub mod guest;
pub mod inbox;
pub mod metrics;
pub mod report;
pub mod session;
#[cfg(test)]
#[path = "../../tests/skip.rs"]
mod skip;
pub mod storage;
pub mod worker;
