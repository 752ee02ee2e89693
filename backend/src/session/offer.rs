//! The offer of a disk to front-end and driver: features, configuration space and limits.

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio::{ConfigSpace, Features, SECTOR_SIZE, Topology};

use crate::device::DeviceInfo;

/// The protocol features that are offered (vhost-user, "Protocol features"). Each has messages in
/// [`super::messages`] or [`super::dispatch`].
pub(super) const PROTOCOL_FEATURES: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::BACKEND_REQ)
    .union(VhostUserProtocolFeatures::RESET_DEVICE)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS)
    .union(VhostUserProtocolFeatures::INFLIGHT_SHMFD)
    .union(VhostUserProtocolFeatures::LOG_SHMFD)
    .union(VhostUserProtocolFeatures::STATUS);

/// The feature bits that no driver sees.
pub(super) const FRONTEND_FEATURES: VhostUserVirtioFeatures =
    VhostUserVirtioFeatures::LOG_ALL.union(VhostUserVirtioFeatures::PROTOCOL_FEATURES);

/// The feature bit of a migration: writes to guest memory are to be logged. It does not concern the
/// ring, so that no queue stops for it.
pub(super) const LOG_ALL: u64 = VhostUserVirtioFeatures::LOG_ALL.bits();

/// `VIRTIO_F_ANY_LAYOUT`, a feature of legacy devices. QEMU offers it to drivers itself, whatever
/// the back-end offers. Requests are taken in any layout in any case (virtio 1.2, 2.7.4), so there
/// is nothing to refuse.
pub(super) const ANY_LAYOUT: u64 = 1 << 27;

/// The hint for the driver how many data segments a request has at most. The usual ring has 128
/// entries, two of which header and status take.
const SEG_MAX: u32 = 126;
/// The largest number of sectors in one discard or write zeroes request, unless the limit of the
/// device is less: 1 GiB.
const ZEROING_SECTORS_MAX: u32 = 1 << 21;
/// The number of ranges in one such request. Drivers merge neighbours anyway, and QEMU's tests
/// expect one.
const ZEROING_RANGES_MAX: u32 = 1;

/// The offer of every session of a disk.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The virtio feature bits.
    pub features: Features,
    /// The configuration space.
    pub config: ConfigSpace,
    /// The largest ring accepted, in entries.
    pub queue_size_max: u16,
    /// The largest number of memory regions accepted. Each keeps a descriptor.
    pub memory_slots: usize,
}

/// The choices of the user on which the offer depends.
#[derive(Debug, Clone, Copy)]
pub struct Choices {
    /// The number of queues.
    pub num_queues: u16,
    /// The largest ring accepted, in entries.
    pub queue_size: u16,
    /// The guest's block size, in bytes.
    pub block_size: u32,
    /// Whether writes are refused.
    pub read_only: bool,
    /// The largest number of memory regions accepted.
    pub memory_slots: usize,
}

impl Offer {
    /// The offer for a device with `info`.
    pub fn new(choices: &Choices, info: &DeviceInfo) -> Self {
        Self {
            features: features(choices, info),
            config: config(choices, info),
            queue_size_max: choices.queue_size,
            memory_slots: choices.memory_slots,
        }
    }
}

/// The feature bits (virtio 1.2, 5.2.3 and 6).
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
    // requests that a guest aligns to this need no reading, merging and writing
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

/// The number of data segments that fit in a ring of `queue_size` entries without an indirect
/// table. The driver may choose a smaller ring for a queue; then a request has at most the entries
/// of that ring less two.
fn seg_max(queue_size: u16) -> u32 {
    u32::from(queue_size).saturating_sub(2).clamp(1, SEG_MAX)
}
