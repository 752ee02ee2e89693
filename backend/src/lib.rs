//! The stableblk process: a vhost-user-blk back-end that keeps guest writes stable and protected.
//!
//! ARCHITECTURE.md has the map. [`worker`] is the path of a request; [`session`] speaks vhost-user; [`device`] is storage;
//! [`command`] is what a person starts.

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
