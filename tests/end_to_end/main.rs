//! End-to-end tests: the built program, spoken to over its socket, its command line and its files.
//!
//! One behaviour a file. Nothing here knows private fields: a test is a front-end, or a person at a
//! shell.

mod harness;
#[path = "../sidecar_bytes.rs"]
mod sidecar_bytes;
#[path = "../skip.rs"]
mod skip;

mod backup;
mod bad_input;
mod block_device;
mod control;
mod copy;
mod corrupt_media;
mod crashed_image;
mod cut_off_growth;
mod damage_list;
mod dirty_log;
mod features;
mod fencing;
mod file_in_memory;
mod flush_and_kill;
mod freeze;
mod full_disk;
mod hand_over;
mod idle;
mod independent_client;
mod inflight_region;
mod inherited_socket;
mod interrupts;
mod kill_at_each_store;
mod kill_cycles;
mod large_image;
mod limits;
mod log;
mod lost_durability;
mod lost_memory;
mod malformed_chain;
mod memory_changes;
mod messages;
mod metrics;
mod night;
mod online_resize;
mod other_backend;
mod overlapping;
mod probes;
mod qemu_locks;
mod random_sequences;
mod repair;
mod requests;
mod reset;
mod resize;
mod rotten_sidecar;
mod same_page;
mod scrub;
mod session;
mod setting_up;
mod shared_descriptors;
mod shrunk_image;
mod slow;
mod socket_activation;
mod status;
mod top;
mod troubleshooting;
mod two_file_systems;
mod two_moments;
mod unprotected;
mod unreadable_sidecar;
mod unstable_guest;
mod verify_after_crash;
mod watchdog;
mod write_read;
mod zeroing;
