//! Chains that are no requests, and the answer that the driver gets.

use vm_memory::GuestMemoryBackend;

use crate::pending::{PendingChain, Reply, Status};
use crate::ring::SplitRing;
use crate::segments::Segment;

/// Why a chain is no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MalformedReason {
    /// The chain visits a descriptor twice.
    #[error("the descriptor chain loops")]
    Loop,
    /// A descriptor's successor is not in its table.
    #[error("next descriptor {next} is outside its table")]
    NextOutOfRange {
        /// The index given.
        next: u16,
    },
    /// More descriptors than the ring's size and than 1024, or an indirect table that large.
    #[error("the descriptor chain is too long")]
    TooManyDescriptors,
    /// More than 2^32 bytes in all.
    #[error("the descriptor chain covers more than 2^32 bytes")]
    TooManyBytes,
    /// A device-readable descriptor after a device-writable one (virtio 1.2, 2.7.4.2).
    #[error("a device-readable descriptor follows a device-writable one")]
    ReadableAfterWritable,
    /// An indirect descriptor although the feature was not negotiated.
    #[error("indirect descriptors were not negotiated")]
    IndirectNotNegotiated,
    /// An indirect descriptor that claims to have a successor.
    #[error("an indirect descriptor has a next descriptor")]
    IndirectWithNext,
    /// An indirect descriptor in an indirect table.
    #[error("an indirect table holds an indirect descriptor")]
    NestedIndirect,
    /// An indirect table that is empty or no multiple of 16 bytes.
    #[error("indirect table of {len} bytes")]
    IndirectTableLength {
        /// The length in bytes.
        len: u32,
    },
    /// An indirect table outside guest memory.
    #[error("indirect table at {:#x} is not in guest memory", .0.address.0)]
    IndirectTableOutsideMemory(Segment),
    /// No byte for the device to write, hence none for the status.
    #[error("no device-writable byte for the status")]
    NoStatus,
    /// The status byte is not in guest memory.
    #[error("status byte at {:#x} is not in guest memory", .0.address.0)]
    StatusOutsideMemory(Segment),
    /// Less than 16 device-readable bytes.
    #[error("a header of {len} bytes")]
    HeaderTooShort {
        /// The number of bytes.
        len: u64,
    },
    /// The header, or the ranges that follow it, do not lie in guest memory.
    #[error("the header is not in guest memory")]
    HeaderOutsideMemory,
    /// A buffer does not lie in guest memory.
    #[error("buffer of {} bytes at {:#x} is not in guest memory", .0.len, .0.address.0)]
    OutsideMemory(Segment),
    /// A discard or write zeroes request whose data is empty or no multiple of 16 bytes.
    #[error("{len} bytes of ranges")]
    RangesLength {
        /// The number of bytes.
        len: u64,
    },
    /// A discard or write zeroes request with more than [`RANGES_MAX`](crate::RANGES_MAX) ranges.
    #[error("{count} ranges in one request")]
    TooManyRanges {
        /// The number of them.
        count: u64,
    },
}

impl MalformedReason {
    /// The status that answers it.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            // as more ranges than the configuration space allows
            Self::TooManyRanges { .. } => Status::Unsupp,
            _ => Status::IoErr,
        }
    }
}

/// A chain that is no request, with what is needed to return it.
#[derive(Debug)]
#[must_use = "a malformed chain must be returned too"]
pub enum Malformed {
    /// The chain has a status byte, in which the driver gets an error.
    Answerable {
        /// The error.
        reason: MalformedReason,
        /// The way to answer.
        reply: Reply,
    },
    /// There is no status byte, or none that can be found: the driver is broken, and its queue to
    /// be retired.
    Unanswerable {
        /// The error.
        reason: MalformedReason,
        /// The chain, to be returned with nothing written.
        chain: PendingChain,
    },
}

impl Malformed {
    /// The error.
    #[must_use]
    pub fn reason(&self) -> MalformedReason {
        match self {
            Self::Answerable { reason, .. } | Self::Unanswerable { reason, .. } => *reason,
        }
    }

    /// Returns the chain: with the reason's status, or with a used length of 0 where no status can
    /// be written.
    pub fn complete<M: GuestMemoryBackend>(self, ring: &mut SplitRing, mem: &M) {
        match self {
            Self::Answerable { reason, reply } => reply.complete(ring, mem, reason.status(), 0),
            Self::Unanswerable { chain, .. } => chain.complete(ring, 0),
        }
    }
}
