//! An NVMe namespace by its character device, `/dev/ngXnY`: our own commands, past the kernel's
//! block layer.
//!
//! This way reaches features that the block layer does not offer: metadata interleaved with the
//! data, types as they are, the exact status of each check, and metadata on kernels whose io_uring
//! does not take it.

mod command;
mod format;
mod identify;
mod namespace;
mod passthrough;
mod status;
mod step;

pub use format::{NamespaceFormat, UnusableFormat};
pub use namespace::{Namespace, NamespaceError};
pub use passthrough::{NvmePassthroughDevice, NvmePassthroughQueue};
