//! `create`, `protect`, `check` and `info`, as a person runs them.

mod directory;
#[path = "../sidecar_bytes.rs"]
mod sidecar_bytes;
#[path = "../skip.rs"]
mod skip;

mod check;
mod completions;
mod copy;
mod create;
mod formats;
mod identity;
mod in_use;
mod log;
mod protect;
mod refused;
mod sidecar;
mod two_moments;
