//! Files and devices that hold a disk: opening, locking and measuring them, and what is written
//! beside the data.

pub mod blocking;
pub mod durability;
pub mod error;
pub mod group;
pub mod image;
pub mod loss_mark;
pub(crate) mod reopen;
pub(crate) mod session_stamp;
mod sidecar_blocks;
pub mod sidecar_file;
pub mod sidecar_media;
pub mod sidecar_path;
pub(crate) mod sidecar_sample;
pub mod sidecar_search;
pub mod size;
#[cfg(test)]
pub(crate) mod thin_device;
pub mod trace;
mod write_back;
