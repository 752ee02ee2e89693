//! Stamped requests through the `blkio` client, and what a disk may hold of them after a crash.
//!
//! A [`Plan`] is a list of requests that a seed makes. A [`Load`] keeps many of them in flight on
//! all queues of a disk, and its [`History`] knows which writes each sector may hold.

mod client;
mod history;
mod load;
mod plan;
mod stamp;

pub use client::{Client, TIME_LIMIT, connect};
pub use history::History;
pub use load::Load;
pub use plan::{Change, ChangeKind, Plan, Step, filling};
pub use stamp::{SECTOR, stamped, stamps};
