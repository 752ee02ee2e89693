//! The one reader of request headers: from a popped chain to a request (virtio 1.2, 5.2.6).

use smallvec::SmallVec;
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::chain::{Buffers, Chain};
use crate::malformed::{Malformed, MalformedReason};
use crate::pending::Reply;
use crate::request_type;
use crate::segments::{self, Segments};

/// A sector is 512 bytes, whatever the device's block size.
pub const SECTOR_SIZE: u64 = 512;
/// Length of the answer to [`Operation::GetId`], in bytes; a shorter name is padded with NUL.
pub const DEVICE_ID_LEN: usize = 20;
/// Ranges that a discard or write zeroes request may have, whatever smaller limit the configuration
/// space gives.
pub const RANGES_MAX: usize = 256;

/// `type`, `reserved`, `sector`
const HEADER_SIZE: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`
const RANGE_SIZE: usize = 16;

/// A request, read from guest memory once; only its data is still there.
#[derive(Debug)]
pub struct Request {
    /// The operation that is requested.
    pub operation: Operation,
    /// The place of the data: device-readable for a write, device-writable for a read and
    /// [`Operation::GetId`], else empty.
    pub data: Segments,
    /// The way to answer.
    pub reply: Reply,
}

/// The operation that the driver requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `VIRTIO_BLK_T_IN`
    Read {
        /// First sector.
        sector: u64,
    },
    /// `VIRTIO_BLK_T_OUT`
    Write {
        /// First sector.
        sector: u64,
    },
    /// `VIRTIO_BLK_T_FLUSH`
    Flush,
    /// `VIRTIO_BLK_T_GET_ID`: up to [`DEVICE_ID_LEN`] bytes are written to the data.
    GetId,
    /// `VIRTIO_BLK_T_DISCARD`
    Discard(Ranges),
    /// `VIRTIO_BLK_T_WRITE_ZEROES`
    WriteZeroes(Ranges),
    /// A type this crate does not know.
    Unknown(u32),
}

/// Ranges of a discard or write zeroes request: at least one, at most [`RANGES_MAX`].
pub type Ranges = SmallVec<[Range; 1]>;

/// `struct virtio_blk_discard_write_zeroes`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First sector.
    pub sector: u64,
    /// Number of sectors.
    pub num_sectors: u32,
    /// [`UNMAP`](Self::UNMAP); all other bits are reserved.
    pub flags: u32,
}

impl Range {
    /// `VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP`: a write zeroes request may deallocate the range.
    pub const UNMAP: u32 = 1;

    fn from_bytes(bytes: [u8; RANGE_SIZE]) -> Self {
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = bytes;
        Self {
            sector: u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            num_sectors: u32::from_le_bytes([n0, n1, n2, n3]),
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
        }
    }
}

impl Request {
    /// Reads the header and finds the data and the status byte, however the driver split them over
    /// descriptors.
    ///
    /// Limits of the device are not looked at, see [`Request::check`].
    pub fn parse<M: GuestMemoryBackend>(mem: &M, chain: Chain<'_>) -> Result<Self, Malformed> {
        let Chain { pending, buffers } = chain;
        let located = buffers.and_then(|buffers| Ok((buffers, find_status(mem, buffers)?)));
        let (buffers, status_address) = match located {
            Ok(located) => located,
            Err(reason) => {
                return Err(Malformed::Unanswerable { reason, chain: pending });
            }
        };
        let reply = Reply { chain: pending, status_address };
        match parse_body(mem, buffers) {
            Ok((operation, data)) => Ok(Self { operation, data, reply }),
            Err(reason) => Err(Malformed::Answerable { reason, reply }),
        }
    }
}

/// The status is the last device-writable byte.
fn find_status<M: GuestMemoryBackend>(mem: &M, buffers: &Buffers) -> Result<GuestAddress, MalformedReason> {
    let last = buffers.writable().last().ok_or(MalformedReason::NoStatus)?;
    let outside = MalformedReason::StatusOutsideMemory(last);
    let address = last.address.0.checked_add(u64::from(last.len) - 1).ok_or(outside)?;
    mem.check_address(GuestAddress(address)).ok_or(outside)
}

fn parse_body<M: GuestMemoryBackend>(
    mem: &M,
    buffers: &Buffers,
) -> Result<(Operation, Segments), MalformedReason> {
    if let Some(fault) = buffers.fault() {
        return Err(fault);
    }
    let (kind, sector) = read_header(mem, buffers)?;
    let none = Segments::default();
    Ok(match kind {
        request_type::IN => (Operation::Read { sector }, device_writable_data(mem, buffers)?),
        request_type::OUT => (Operation::Write { sector }, device_readable_data(mem, buffers)?),
        request_type::FLUSH => (Operation::Flush, none),
        request_type::GET_ID => (Operation::GetId, device_writable_data(mem, buffers)?),
        request_type::DISCARD => (Operation::Discard(read_ranges(mem, buffers)?), none),
        request_type::WRITE_ZEROES => (Operation::WriteZeroes(read_ranges(mem, buffers)?), none),
        unknown => (Operation::Unknown(unknown), none),
    })
}

/// `type` and `sector` of the header.
fn read_header<M: GuestMemoryBackend>(mem: &M, buffers: &Buffers) -> Result<(u32, u64), MalformedReason> {
    let readable = buffers.readable();
    if readable.len < HEADER_SIZE as u64 {
        return Err(MalformedReason::HeaderTooShort { len: readable.len });
    }
    let mut header = [0; HEADER_SIZE];
    segments::copy_to(mem, &readable.segments, 0, &mut header)
        .map_err(|_| MalformedReason::HeaderOutsideMemory)?;
    let [t0, t1, t2, t3, _, _, _, _, s0, s1, s2, s3, s4, s5, s6, s7] = header;
    Ok((u32::from_le_bytes([t0, t1, t2, t3]), u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7])))
}

/// The device-readable bytes after the header.
fn device_readable_data<M: GuestMemoryBackend>(
    mem: &M,
    buffers: &Buffers,
) -> Result<Segments, MalformedReason> {
    let readable = buffers.readable();
    let len = readable.len - HEADER_SIZE as u64;
    Segments::cut(mem, &readable.segments, HEADER_SIZE as u64, len).map_err(MalformedReason::OutsideMemory)
}

/// The device-writable bytes before the status.
fn device_writable_data<M: GuestMemoryBackend>(
    mem: &M,
    buffers: &Buffers,
) -> Result<Segments, MalformedReason> {
    let writable = buffers.writable();
    Segments::cut(mem, &writable.segments, 0, writable.len - 1).map_err(MalformedReason::OutsideMemory)
}

/// The ranges of a discard or write zeroes request, all of them or none.
fn read_ranges<M: GuestMemoryBackend>(mem: &M, buffers: &Buffers) -> Result<Ranges, MalformedReason> {
    let readable = buffers.readable();
    let len = readable.len - HEADER_SIZE as u64;
    if len == 0 || !len.is_multiple_of(RANGE_SIZE as u64) {
        return Err(MalformedReason::RangesLength { len });
    }
    let mut bytes = [0; RANGES_MAX * RANGE_SIZE];
    let bytes = usize::try_from(len)
        .ok()
        .and_then(|len| bytes.get_mut(..len))
        .ok_or(MalformedReason::TooManyRanges { count: len / RANGE_SIZE as u64 })?;
    segments::copy_to(mem, &readable.segments, HEADER_SIZE as u64, bytes)
        .map_err(|_| MalformedReason::HeaderOutsideMemory)?;
    let (ranges, _) = bytes.as_chunks();
    Ok(ranges.iter().copied().map(Range::from_bytes).collect())
}
