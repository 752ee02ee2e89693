//! What the front-end shares with us: memory, files and eventfds. All of it is hostile.

pub mod dirty_log;
pub mod eventfd;
pub mod inflight_region;
pub mod mapping;
pub mod memory_table;
pub mod sigbus;

/// Most memory regions at a time; what libvhost-user offers.
pub const MEMORY_SLOTS_MAX: usize = 509;
