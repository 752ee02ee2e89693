//! The size of the storage under a device.

/// The size of the storage under a device, when it is measured again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageSize {
    /// The size, in bytes.
    pub bytes: u64,
    /// Whether we can extend it. A device has the size that its owner gives it.
    pub is_extensible: bool,
}
