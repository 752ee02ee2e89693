//! A real Linux guest under QEMU on disks that the built program serves: checks that no client of
//! our own can make.

mod bench;
#[path = "../skip.rs"]
mod skip;

mod filesystems;
mod fio;
mod memory_hotplug;
mod migration;
mod outages;
mod power_cuts;
mod rewriting;
mod swap;
mod write_log;
