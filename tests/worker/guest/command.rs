//! Requests before they are laid out, and how they are cut into descriptors.

use virtio::testing::{header, range};
use virtio::{Range, request_type};

/// A request, before it is laid out.
#[derive(Clone, Debug)]
pub(crate) enum Command {
    Read { sector: u64, len: u32 },
    Write { sector: u64, data: Vec<u8> },
    Flush,
    Discard { sector: u64, sectors: u32 },
    WriteZeroes { sector: u64, sectors: u32, unmap: bool },
}

impl Command {
    /// Header and data, as one stream.
    pub(super) fn readable(&self) -> Vec<u8> {
        let (request_type, sector) = match self {
            Self::Read { sector, .. } => (request_type::IN, *sector),
            Self::Write { sector, .. } => (request_type::OUT, *sector),
            Self::Flush => (request_type::FLUSH, 0),
            Self::Discard { .. } => (request_type::DISCARD, 0),
            Self::WriteZeroes { .. } => (request_type::WRITE_ZEROES, 0),
        };
        let mut stream = header(request_type, sector).to_vec();
        match self {
            Self::Write { data, .. } => stream.extend(data),
            Self::Discard { sector, sectors } => stream.extend(range(*sector, *sectors, 0)),
            Self::WriteZeroes { sector, sectors, unmap } => {
                stream.extend(range(*sector, *sectors, u32::from(*unmap) * Range::UNMAP));
            }
            Self::Read { .. } | Self::Flush => {}
        }
        stream
    }

    /// Bytes of header and data.
    pub(crate) fn readable_len(&self) -> u32 {
        let data = match self {
            Self::Write { data, .. } => data.len(),
            Self::Discard { .. } | Self::WriteZeroes { .. } => 16,
            Self::Read { .. } | Self::Flush => 0,
        };
        16 + u32::try_from(data).unwrap()
    }

    /// Bytes of data and the status.
    pub(crate) fn writable_len(&self) -> u32 {
        match self {
            Self::Read { len, .. } => len + 1,
            _ => 1,
        }
    }
}

/// How a request's two streams of bytes are cut into descriptors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layout {
    /// Where the device-readable stream is cut, ascending.
    pub(crate) readable_cuts: Vec<u32>,
    /// Where the device-writable stream is cut, ascending.
    pub(crate) writable_cuts: Vec<u32>,
    pub(crate) indirect: bool,
}
