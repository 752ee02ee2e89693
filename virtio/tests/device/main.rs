//! The device's side of virtio-blk as a driver meets it: guest memory in, guest memory out.

mod chain;
mod config;
mod garbage;
mod harness;
mod limits;
mod notification;
mod oracle;
mod removed_memory;
mod request;
mod ring;
mod segments;
mod wake_up;
