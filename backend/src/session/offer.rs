//! What a disk offers to front-end and driver: features, configuration space and limits.

use virtio::{ConfigSpace, Features};

/// What every session of a disk offers.
#[derive(Debug, Clone)]
pub struct Offer {
    /// virtio feature bits.
    pub features: Features,
    /// Configuration space.
    pub config: ConfigSpace,
    /// Largest ring accepted, in entries.
    pub queue_size_max: u16,
    /// Most memory regions accepted; each keeps a descriptor.
    pub memory_slots: usize,
}
