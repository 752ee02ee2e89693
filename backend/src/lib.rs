//! The stableblk process: a vhost-user-blk back-end that keeps guest writes stable and protected.

pub mod error;
pub mod image;
pub mod sidecar_file;
