//! The domain of `qemu-configs/libvirt-domain.xml` through its life, all by `virsh`: a libvirt of
//! each test's own, without systemd.
//!
//! Its guest writes and verifies round after round, and says so. It must not notice operations from
//! outside.

mod daemon;
mod domain;
#[path = "../skip.rs"]
mod skip;

mod migrate;
mod resize;
mod restart;
mod save;
mod start_and_stop;
