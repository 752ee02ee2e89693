//! A command in flight: what the ring does for an operation on a namespace.

#![expect(unsafe_code, reason = "promises the ring that buffers stay in place")]

use std::io;

use io_uring::{cqueue, opcode, squeue, types};

use super::command::{COMMAND_SIZE, DATASET_RANGE_SIZE, NvmeCommand};
use super::status::NvmeStatus;
use crate::device::operation::{DeviceOperation, TransferBuffer};
use crate::device::pi_failure::PiStatus;
use crate::device::uring::RingStep;

/// `NVME_URING_CMD_IO` and `NVME_URING_CMD_IO_VEC`: `_IOWR('N', 0x80 and 0x81, struct
/// nvme_uring_cmd)`.
const ONE_BUFFER: u32 = 0xc048_4e80;
const VECTORS: u32 = 0xc048_4e81;
/// The namespace, as the ring's registered file.
const NAMESPACE: types::Fixed = types::Fixed(0);
/// A command in flight. The addresses of its memory are filled in when it is submitted.
#[derive(Debug)]
pub(super) struct NvmeStep {
    pub(super) command: NvmeCommand,
    pub(super) buffer: CommandBuffer,
    pub(super) kind: Kind,
}

/// The memory that a command names.
#[derive(Debug)]
pub(super) enum CommandBuffer {
    None,
    /// Data and metadata of the transfer's folio. The data is named as the ring has it registered,
    /// or by its address.
    Folio {
        registered: bool,
        metadata_len: usize,
    },
    /// The bytes behind the folio's metadata, where each block's metadata follows its data.
    Interleaved {
        metadata_len: usize,
    },
    /// The guest's memory, and the metadata of the folio.
    Vectors {
        metadata_len: usize,
    },
    /// The range to deallocate.
    Range(Box<[u8; DATASET_RANGE_SIZE]>),
}

impl CommandBuffer {
    /// `command` with the addresses of this memory, all of which `operation` or this value owns.
    fn fill_in(&self, command: NvmeCommand, operation: &DeviceOperation) -> NvmeCommand {
        match (self, operation) {
            (Self::None, _) => command,
            (Self::Range(range), _) => command.with_data(range.as_ptr(), range.len()),
            (
                Self::Folio { metadata_len, .. }
                | Self::Vectors { metadata_len }
                | Self::Interleaved { metadata_len },
                DeviceOperation::Transfer(transfer),
            ) => {
                let folio = transfer.folio().expect("a transfer of a device with metadata has a folio");
                let (metadata, behind) = folio.metadata().split_at(*metadata_len);
                match (self, transfer.buffer()) {
                    (Self::Interleaved { .. }, _) => {
                        let wire = &behind[..transfer.len() + metadata_len];
                        command.with_data(wire.as_ptr(), wire.len())
                    }
                    (_, TransferBuffer::Bounce(folio)) => command
                        .with_metadata(metadata.as_ptr(), metadata.len())
                        .with_data(folio.as_ptr(), transfer.len()),
                    (_, TransferBuffer::Guest(guest, _)) => {
                        let vectors = guest.as_slice();
                        command
                            .with_metadata(metadata.as_ptr(), metadata.len())
                            .with_data(vectors.as_ptr().cast(), vectors.len())
                    }
                }
            }
            _ => panic!("{operation:?} is no transfer"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Transfer,
    /// A part of an operation that makes blocks zeros. After it, `done` bytes of the operation are
    /// done.
    Zero {
        done: u64,
    },
    /// A transfer that has failed with this status, repeated without checks.
    Repeated(PiStatus),
    Flush,
}

// SAFETY: `fill_in` takes each address from memory that the operation or the step owns, with a
// length that it checks: the `len` bytes of a folio or of guest vectors (checked by
// `Transfer::new`), parts of the folio's metadata (checked by slicing), or the range, which the
// step holds on the heap. All of it stays in place when operation and step are moved.
unsafe impl RingStep for NvmeStep {
    type Submission = squeue::Entry128;
    type Completion = cqueue::Entry32;

    fn entry(&self, operation: &DeviceOperation, fixed_buffer: bool) -> squeue::Entry128 {
        let bytes: [u8; COMMAND_SIZE] = self.buffer.fill_in(self.command, operation).to_bytes();
        let code = if matches!(self.buffer, CommandBuffer::Vectors { .. }) { VECTORS } else { ONE_BUFFER };
        // the data part of a folio is what the ring has registered
        let registered = matches!(self.buffer, CommandBuffer::Folio { registered: true, .. });
        let fixed = (fixed_buffer && registered).then_some(0);
        opcode::UringCmd80::new(NAMESPACE, code).cmd(bytes).buf_index(fixed).build()
    }

    fn outcome(&self, _operation: &DeviceOperation, result: i32) -> io::Result<()> {
        match u16::try_from(result) {
            Ok(0) => Ok(()),
            Ok(status) => Err(io::Error::other(NvmeStatus::new(status))),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        }
    }
}
