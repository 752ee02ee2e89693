//! Shared by the programs of a test guest: a block device opened for direct I/O and buffers fit for
//! it.

mod block_device;
mod page;
pub mod vhost_disk;

pub use block_device::BlockDevice;
pub use page::{Page, Pages, while_rewriting};

/// The command line's arguments after the program's name, as the `N` words that `usage` names.
///
/// # Errors
/// The usage line, when there are more or fewer.
pub fn arguments<const N: usize>(usage: &str) -> Result<[String; N], String> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    given.try_into().map_err(|_| format!("usage: {usage}"))
}

/// The number that an argument holds.
///
/// # Errors
/// Says which argument is no number.
pub fn number<T: std::str::FromStr<Err: std::fmt::Display>>(argument: &str) -> Result<T, String> {
    argument.parse().map_err(|error| format!("{argument}: {error}"))
}
