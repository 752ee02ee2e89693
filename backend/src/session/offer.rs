//! What a disk offers to front-end and driver: features, configuration space and limits.

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio::{ConfigSpace, Features, SECTOR_SIZE, Topology};

use crate::device::DeviceInfo;

/// Protocol features (vhost-user, "Protocol features"). Each has messages in [`super::messages`] or
/// [`super::dispatch`].
pub(super) const PROTOCOL_FEATURES: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::BACKEND_REQ)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    .union(VhostUserProtocolFeatures::LOG_SHMFD)
    .union(VhostUserProtocolFeatures::STATUS);

/// Feature bits that no driver sees.
pub(super) const FRONTEND_FEATURES: VhostUserVirtioFeatures =
    VhostUserVirtioFeatures::LOG_ALL.union(VhostUserVirtioFeatures::PROTOCOL_FEATURES);

/// A migration: what is written to guest memory is to be logged. No feature of the ring's, so that no queue stops for it.
pub(super) const LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();

/// `VIRTIO_F_ANY_LAYOUT`, a feature of legacy devices. QEMU offers it to drivers itself, whatever the back-end
/// offers. Requests are taken in any layout in any case (virtio 1.2, 2.7.4), so there is nothing to refuse.
pub(super) const ANY_LAYOUT: u64 = 1 << 27;

/// Hint for the driver: most data segments of a request. The usual ring has 128 entries, two of which header and status take.
const SEG_MAX: u32 = 126;
/// Most sectors of one discard or write zeroes request, where the device does not have less: 1 GiB.
const ZEROING_SECTORS_MAX: u32 = 1 << 21;
/// Ranges of one such request. Drivers merge neighbours anyway, and QEMU's tests expect one.
const ZEROING_RANGES_MAX: u32 = 1;

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

/// What the person who serves the disk has chosen, as far as the offer depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Choices {
    /// Queues.
    pub num_queues: u16,
    /// Largest ring accepted, in entries.
    pub queue_size: u16,
    /// The guest's block size, in bytes.
    pub block_size: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Most memory regions accepted.
    pub memory_slots: usize,
}

impl Offer {
    /// The offer for a device of `info`.
    pub fn new(choices: &Choices, info: &DeviceInfo) -> Self {
        Self {
            features: features(choices, info),
            config: config(choices, info),
            queue_size_max: choices.queue_size,
            memory_slots: choices.memory_slots,
        }
    }
}

/// Feature bits (virtio 1.2, 5.2.3 and 6).
fn features(choices: &Choices, info: &DeviceInfo) -> Features {
    let mut features = Features::VERSION_1
        | Features::FLUSH
        | Features::BLK_SIZE
        | Features::SEG_MAX
        | Features::TOPOLOGY
        | Features::EVENT_IDX
        | Features::INDIRECT_DESC;
    features.set(Features::MQ, choices.num_queues > 1);
    features.set(Features::RO, choices.read_only);
    features.set(Features::CONFIG_WCE | Features::WRITE_ZEROES, !choices.read_only);
    let discard = info.zeroing.punch_hole || info.zeroing.deallocate;
    features.set(Features::DISCARD, !choices.read_only && discard);
    features
}

/// The configuration space (virtio 1.2, 5.2.4).
fn config(choices: &Choices, info: &DeviceInfo) -> ConfigSpace {
    // a guest that aligns its requests to this spares itself reading, merging and writing
    let blocks_per_granule =
        u32::try_from(info.granule).unwrap_or(u32::MAX).div_ceil(choices.block_size).max(1);
    let granule_sectors = u32::try_from(info.granule as u64 / SECTOR_SIZE).unwrap_or(u32::MAX);
    let zeroing_sectors =
        u32::try_from(info.zeroing_max / SECTOR_SIZE).unwrap_or(u32::MAX).min(ZEROING_SECTORS_MAX);
    ConfigSpace {
        capacity_sectors: info.capacity.get() / SECTOR_SIZE,
        seg_max: seg_max(choices.queue_size),
        block_size: choices.block_size,
        topology: Topology {
            physical_block_exp: u8::try_from(blocks_per_granule.ilog2()).unwrap_or(0),
            min_io_size: u16::try_from(blocks_per_granule).unwrap_or(u16::MAX),
            ..Topology::default()
        },
        writeback: true,
        num_queues: choices.num_queues,
        max_discard_sectors: zeroing_sectors,
        max_discard_seg: ZEROING_RANGES_MAX,
        discard_sector_alignment: granule_sectors,
        max_write_zeroes_sectors: zeroing_sectors,
        max_write_zeroes_seg: ZEROING_RANGES_MAX,
        write_zeroes_may_unmap: info.zeroing.punch_hole,
    }
}

/// What fits in a ring of `queue_size` entries without an indirect table. The driver may choose smaller rings, one by one: what a
/// request of it can have is the smaller of this and the ring's size less two.
fn seg_max(queue_size: u16) -> u32 {
    u32::from(queue_size).saturating_sub(2).clamp(1, SEG_MAX)
}
