//! The features that the driver may negotiate, and the fields that it may read and write (virtio
//! 1.2, 5.2.3 to 5.2.5).

use bitflags::bitflags;

/// Size of the configuration space in bytes: through the write zeroes fields. A larger one would
/// hold fields of features that are not here.
pub const CONFIG_SPACE_SIZE: usize = 60;

/// Offset of `writeback`, the one field a driver may write.
const WRITEBACK_OFFSET: u32 = 32;

bitflags! {
    /// Feature bits of virtio-blk and of the ring, as in `VIRTIO_BLK_F_*` and `VIRTIO_F_*`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Features: u64 {
        /// `size_max` limits a segment. Not to be offered: drivers that read it mishandle it or
        /// refuse the device.
        const SIZE_MAX = 1 << 1;
        /// `seg_max` limits the number of segments; only a hint, drivers are known to exceed it.
        const SEG_MAX = 1 << 2;
        /// The disk is read-only.
        const RO = 1 << 5;
        /// `blk_size` is valid.
        const BLK_SIZE = 1 << 6;
        /// The flush request exists.
        const FLUSH = 1 << 9;
        /// The topology fields are valid.
        const TOPOLOGY = 1 << 10;
        /// The driver may switch between writeback and writethrough.
        const CONFIG_WCE = 1 << 11;
        /// `num_queues` is valid.
        const MQ = 1 << 12;
        /// The discard request exists.
        const DISCARD = 1 << 13;
        /// The write zeroes request exists.
        const WRITE_ZEROES = 1 << 14;
        /// Chains may end in an indirect table.
        const INDIRECT_DESC = 1 << 28;
        /// `used_event` and `avail_event` replace the suppression flags.
        const EVENT_IDX = 1 << 29;
        /// virtio 1.0 or later: little-endian, no legacy layout.
        const VERSION_1 = 1 << 32;
    }
}

/// The fields of `struct virtio_blk_config` this device has, in the specification's order and
/// names.
///
/// Fields not listed, `size_max` and `geometry`, read as zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConfigSpace {
    /// Size of the disk in sectors of 512 bytes.
    pub capacity_sectors: u64,
    /// Segments in one request, a hint.
    pub seg_max: u32,
    /// Guest block size in bytes, a multiple of 512.
    pub block_size: u32,
    /// The sizes of I/O that suit the disk.
    pub topology: Topology,
    /// Whether a write may be volatile until a flush; otherwise it is durable when it completes.
    pub writeback: bool,
    /// Number of request queues.
    pub num_queues: u16,
    /// Sectors in one discard range. Zero makes Windows crash where discard is offered.
    pub max_discard_sectors: u32,
    /// Ranges in one discard request.
    pub max_discard_seg: u32,
    /// The alignment that discard ranges should have, in sectors.
    pub discard_sector_alignment: u32,
    /// Sectors in one write zeroes range. Zero makes Windows crash where write zeroes is offered.
    pub max_write_zeroes_sectors: u32,
    /// Ranges in one write zeroes request.
    pub max_write_zeroes_seg: u32,
    /// Whether write zeroes with the unmap flag may deallocate.
    pub write_zeroes_may_unmap: bool,
}

/// `struct virtio_blk_topology`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Blocks in a physical block, as a power of two.
    pub physical_block_exp: u8,
    /// Blocks before the first aligned physical block.
    pub alignment_offset: u8,
    /// Smallest size of I/O that is not slow, in blocks.
    pub min_io_size: u16,
    /// Best size of I/O, in blocks.
    pub opt_io_size: u32,
}

/// Why the configuration space was not accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not all of the bytes exist.
    #[error(
        "bytes {offset}..{offset}+{len} lie outside the {CONFIG_SPACE_SIZE} bytes of configuration space"
    )]
    OutOfBounds {
        /// First byte.
        offset: u32,
        /// Number of bytes.
        len: usize,
    },
    /// A write to anything but `writeback`.
    #[error("{len} bytes at {offset} of the configuration space are read-only")]
    ReadOnly {
        /// First byte.
        offset: u32,
        /// Number of bytes.
        len: usize,
    },
    /// A value of `writeback` that the specification does not have.
    #[error("{value} is neither writethrough (0) nor writeback (1)")]
    Writeback {
        /// The value.
        value: u8,
    },
}

impl ConfigSpace {
    /// The `size` bytes from `offset` on, in any split.
    ///
    /// # Errors
    ///
    /// [`ConfigError::OutOfBounds`]
    pub fn read(&self, offset: u32, size: u32) -> Result<Vec<u8>, ConfigError> {
        let (start, len) = (offset as usize, size as usize);
        let end = start.saturating_add(len);
        match self.to_bytes().get(start..end) {
            Some(bytes) => Ok(bytes.to_vec()),
            None => Err(ConfigError::OutOfBounds { offset, len }),
        }
    }

    /// Writes `bytes` from `offset` on. The driver may write `writeback`, if it negotiated
    /// [`CONFIG_WCE`](Features::CONFIG_WCE), which the caller checks.
    ///
    /// # Errors
    ///
    /// [`ConfigError::ReadOnly`] or [`ConfigError::Writeback`], with nothing changed. Neither is a
    /// reason to drop the connection.
    pub fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), ConfigError> {
        match (offset, bytes) {
            (WRITEBACK_OFFSET, [value @ (0 | 1)]) => {
                self.writeback = *value == 1;
                Ok(())
            }
            (WRITEBACK_OFFSET, [value]) => Err(ConfigError::Writeback { value: *value }),
            _ => Err(ConfigError::ReadOnly { offset, len: bytes.len() }),
        }
    }

    /// `struct virtio_blk_config`, little-endian.
    fn to_bytes(self) -> [u8; CONFIG_SPACE_SIZE] {
        let mut bytes = [0; CONFIG_SPACE_SIZE];
        let mut put =
            |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(0, &self.capacity_sectors.to_le_bytes());
        put(12, &self.seg_max.to_le_bytes());
        put(20, &self.block_size.to_le_bytes());
        let Topology { physical_block_exp, alignment_offset, min_io_size, opt_io_size } = self.topology;
        put(24, &[physical_block_exp, alignment_offset]);
        put(26, &min_io_size.to_le_bytes());
        put(28, &opt_io_size.to_le_bytes());
        put(WRITEBACK_OFFSET as usize, &[u8::from(self.writeback)]);
        put(34, &self.num_queues.to_le_bytes());
        put(36, &self.max_discard_sectors.to_le_bytes());
        put(40, &self.max_discard_seg.to_le_bytes());
        put(44, &self.discard_sector_alignment.to_le_bytes());
        put(48, &self.max_write_zeroes_sectors.to_le_bytes());
        put(52, &self.max_write_zeroes_seg.to_le_bytes());
        put(56, &[u8::from(self.write_zeroes_may_unmap)]);
        bytes
    }
}
