//! Memory, files and eventfds that the front-end shares. None of them is trusted.

pub mod dirty_log;
pub mod eventfd;
pub mod inflight_region;
pub mod mapping;
pub mod memory_table;
pub mod sigbus;

/// The most memory regions at a time; as many as libvhost-user offers.
pub const MEMORY_SLOTS_MAX: usize = 509;
