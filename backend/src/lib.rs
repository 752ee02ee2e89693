//! The stableblk process: a vhost-user-blk back-end that keeps guest writes stable and protected.
//!
//! ARCHITECTURE.md has the map. [`command`] is what a person starts, [`control`] the thread that
//! supervises a disk, [`session`] speaks vhost-user, [`worker`] is the path of a request, [`device`]
//! is what blocks lie on, [`storage`] has files and locks, [`guest`] what the front-end shares.

pub mod command;
pub mod control;
pub mod device;
pub mod guest;
pub mod inbox;
pub mod metrics;
pub mod report;
pub mod session;
pub mod storage;
pub mod worker;
