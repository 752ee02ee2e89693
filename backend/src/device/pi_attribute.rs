//! io_uring's PI attribute: metadata for a read or write, and which tags the kernel and the device
//! are to check.
//!
//! `struct io_uring_attr_pi` of `linux/io_uring.h`, Linux 6.14. Older kernels ignore it without an
//! error, so a read probes whether it works.

#![expect(unsafe_code, reason = "the io-uring crate has no fields for attributes")]

use std::fs::File;
use std::io;
use std::mem::transmute;
use std::os::fd::AsRawFd;

use bitflags::bitflags;
use io_uring::{IoUring, opcode, squeue, types};
use thiserror::Error;

/// Size of the attribute, in bytes.
pub(super) const ATTRIBUTE_SIZE: usize = 32;
/// `IORING_RW_ATTR_FLAG_PI`
const ATTRIBUTE_PI: u64 = 1;
/// `IORING_FEAT_RW_ATTR`
const FEATURE_ATTRIBUTES: u32 = 1 << 16;
/// Where `attr_ptr` and `attr_type_mask` are in the submission queue entry, in words of 8 bytes.
const ATTRIBUTE_WORD: usize = 6;
const ATTRIBUTE_MASK_WORD: usize = 7;

bitflags! {
    /// `IO_INTEGRITY_CHK_*` of `linux/fs.h`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct TagChecks: u16 {
        const GUARD = 1 << 0;
        const REFERENCE = 1 << 1;
        const APPLICATION = 1 << 2;
    }
}

/// The attribute of one transfer. The application tag is 0.
#[derive(Debug, Clone, Copy)]
pub(super) struct PiAttribute {
    /// The tags that kernel and device check.
    pub(super) checks: TagChecks,
    /// The address of the metadata.
    pub(super) metadata: *mut u8,
    /// Length of the metadata, in bytes.
    pub(super) metadata_len: usize,
    /// Reference tag of the first interval.
    pub(super) seed: u64,
}

impl PiAttribute {
    /// As the kernel reads it: flags, application tag, length, address, seed, reserved.
    pub(super) fn to_bytes(self) -> [u8; ATTRIBUTE_SIZE] {
        let len = u32::try_from(self.metadata_len).expect("a transfer is at most a folio");
        let mut bytes = [0; ATTRIBUTE_SIZE];
        bytes[0..2].copy_from_slice(&self.checks.bits().to_ne_bytes());
        bytes[4..8].copy_from_slice(&len.to_ne_bytes());
        bytes[8..16].copy_from_slice(&(self.metadata as u64).to_ne_bytes());
        bytes[16..24].copy_from_slice(&self.seed.to_ne_bytes());
        bytes
    }
}

/// Returns `entry`, a read or write, with the attribute that is at `attribute` when the entry is
/// submitted.
pub(super) fn attach(entry: squeue::Entry, attribute: *const u8) -> squeue::Entry {
    // SAFETY: an entry is `repr(C)` and has the size of the array, 64 bytes, which the compiler
    // checks. All of them are integers without padding, so they are initialised.
    let mut words = unsafe { transmute::<squeue::Entry, [u64; 8]>(entry) };
    words[ATTRIBUTE_WORD] = attribute as u64;
    words[ATTRIBUTE_MASK_WORD] = ATTRIBUTE_PI;
    // SAFETY: the sizes are the same, and any integers make an entry. Nothing accesses the address
    // before the entry is pushed, which is unsafe.
    unsafe { transmute::<[u64; 8], squeue::Entry>(words) }
}

/// Why tuples cannot be handed to a block device.
#[derive(Debug, Error)]
pub enum NoAttribute {
    /// Before Linux 6.14.
    #[error("this kernel's io_uring cannot carry protection information (IORING_FEAT_RW_ATTR, Linux 6.14)")]
    Kernel,
    /// The kernel has the attribute, but reads without it.
    #[error("the kernel ignores protection information that is handed to this device")]
    Ignored,
    /// The device does not take it, or cannot be read at all.
    #[error("the device does not take protection information from io_uring")]
    Device(#[source] io::Error),
}

/// Whether `file`, a block device open for direct I/O, is read with its metadata: the first
/// interval, of `interval_size` and `metadata_size` bytes, without checks.
pub(super) fn probe(file: &File, interval_size: usize, metadata_size: usize) -> Result<(), NoAttribute> {
    if features().map_err(NoAttribute::Device)? & FEATURE_ATTRIBUTES == 0 {
        return Err(NoAttribute::Kernel);
    }
    // a kernel that ignores the attribute leaves the buffer as it was, whatever that was
    for fill in [0x5A, 0xA5] {
        let mut metadata = vec![fill; metadata_size];
        read_first(file, interval_size, &mut metadata).map_err(NoAttribute::Device)?;
        if metadata.iter().any(|&byte| byte != fill) {
            return Ok(());
        }
    }
    Err(NoAttribute::Ignored)
}

/// `io_uring_params.features` of this kernel. The crate has methods for other features, but not for
/// this one.
fn features() -> io::Result<u32> {
    const PARAMS_WORDS: usize = 30;
    const FEATURES_WORD: usize = 5;
    let mut params = [0_u32; PARAMS_WORDS];
    // SAFETY: io_uring_setup reads and fills in `struct io_uring_params`, whose 120 bytes `params`
    // has. The array lives past the call.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: io_uring_setup has just made the descriptor, and no other code knows it.
    unsafe { libc::close(i32::try_from(fd).unwrap_or(-1)) };
    Ok(params[FEATURES_WORD])
}

/// The memory that the kernel reads and writes during [`read_first`].
struct FirstRead {
    /// Room for the data, at an address that is a multiple of its length.
    memory: Vec<u8>,
    metadata: Vec<u8>,
    attribute: [u8; ATTRIBUTE_SIZE],
}

fn read_first(file: &File, len: usize, metadata: &mut [u8]) -> io::Result<()> {
    let mut uring = IoUring::new(1)?;
    let mut read =
        Box::new(FirstRead { memory: vec![0; 2 * len], metadata: metadata.to_vec(), attribute: [0; _] });
    let padding = read.memory.as_ptr().align_offset(len);
    read.attribute = PiAttribute {
        checks: TagChecks::empty(),
        metadata: read.metadata.as_mut_ptr(),
        metadata_len: read.metadata.len(),
        seed: 0,
    }
    .to_bytes();
    let bytes = u32::try_from(len).map_err(io::Error::other)?;
    let data = read.memory[padding..padding + len].as_mut_ptr();
    let entry = opcode::Read::new(types::Fd(file.as_raw_fd()), data, bytes).build();
    let entry = attach(entry, read.attribute.as_ptr());
    // SAFETY: the entry names `len` bytes of `read.memory`, which is twice as long, from `padding`
    // below `len` on, and the attribute names all of `read.metadata`. All of it is in `read` or on
    // the heap, and `read` is dropped only after the one completion has come; without one it is
    // leaked.
    unsafe { uring.submission().push(&entry) }.map_err(io::Error::other)?;
    let result = loop {
        let entered = uring.submit_and_wait(1);
        if let Some(completion) = uring.completion().next() {
            break completion.result();
        }
        match entered {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                // the kernel may have taken the entry, and write to the memory later
                Box::leak(read);
                return Err(error);
            }
            _ => {}
        }
    };
    metadata.copy_from_slice(&read.metadata);
    match usize::try_from(result) {
        Ok(done) if done == len => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::from_raw_os_error(-result)),
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    #[test]
    fn attribute_is_laid_out_as_the_kernel_has_it() {
        let attribute = PiAttribute {
            checks: TagChecks::GUARD | TagChecks::APPLICATION,
            metadata: ptr::without_provenance_mut(0x1122_3344_5566_7788),
            metadata_len: 0x0102_0304,
            seed: 0x1020_3040_5060_7080,
        };
        let mut expected = [0; ATTRIBUTE_SIZE];
        expected[..8].copy_from_slice(&[5, 0, 0, 0, 4, 3, 2, 1]);
        expected[8..16].copy_from_slice(&0x1122_3344_5566_7788_u64.to_le_bytes());
        expected[16..24].copy_from_slice(&0x1020_3040_5060_7080_u64.to_le_bytes());
        assert_eq!(attribute.to_bytes(), expected);
    }

    #[test]
    fn attaching_changes_the_last_two_words_alone() {
        let entry = opcode::Read::new(types::Fd(3), ptr::null_mut(), 512).offset(4096).build();
        let words = |entry: squeue::Entry| {
            // SAFETY: as in `attach`.
            unsafe { transmute::<squeue::Entry, [u64; 8]>(entry) }
        };
        let (before, after) = (words(entry.clone()), words(attach(entry, ptr::without_provenance(0x1000))));
        assert_eq!(before[..6], after[..6]);
        assert_eq!(after[6..], [0x1000, 1]);
    }

    #[test]
    fn a_file_without_metadata_fails_the_probe() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        assert!(probe(&file, 512, 8).is_err());
    }
}
