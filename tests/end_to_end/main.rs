//! End-to-end tests: the built program, spoken to over its socket, its command line and its files.
//!
//! One behaviour a file. Nothing here knows private fields: a test is a front-end, or a person at a shell.

mod harness;

mod bad_input;
mod corrupt_media;
mod features;
mod flush_and_kill;
mod full_disk;
mod independent_client;
mod inherited_socket;
mod interrupts;
mod malformed_chain;
mod overlapping;
mod random_sequences;
mod requests;
mod same_page;
mod session;
mod shrunk_image;
mod unstable_guest;
mod write_read;
mod zeroing;
