//! Damages a block of an NVMe namespace: `damage DEVICE LBA DATA METADATA data|metadata|extended
//! BYTE`, sizes of one block in bytes. With `extended` the two are interleaved, as data.
//!
//! DEVICE is a character device `/dev/ngXnY`. One bit of that byte is changed as it lies on the
//! medium: nothing is checked on the way and no tag is computed.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

use guest_programs::{arguments, number};

/// `NVME_IOCTL_ID`, `_IO('N', 0x40)`.
const GET_NSID: libc::Ioctl = 0x4e40;
/// `NVME_IOCTL_IO_CMD`, `_IOWR('N', 0x43, struct nvme_passthru_cmd)`.
const IO_COMMAND: libc::Ioctl = 0xc048_4e43;
const WRITE: u8 = 1;
const READ: u8 = 2;

/// `struct nvme_passthru_cmd` of `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Default)]
struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2_to_3: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10_to_15: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

struct Block {
    namespace: File,
    nsid: u32,
    lba: u64,
    data: Vec<u8>,
    metadata: Vec<u8>,
}

fn main() -> Result<(), String> {
    let [device, lba, data, metadata, part, byte] =
        arguments("damage DEVICE LBA DATA METADATA data|metadata|extended BYTE")?;
    let fail = |error: io::Error| format!("{device}: {error}");
    let (mut data, mut metadata) = (number(&data)?, number(&metadata)?);
    if part == "extended" {
        (data, metadata) = (data + metadata, 0);
    }
    let mut block = Block::open(&device, number(&lba)?, data, metadata).map_err(fail)?;
    block.transfer(READ).map_err(fail)?;
    let bytes = if part == "metadata" { &mut block.metadata } else { &mut block.data };
    bytes[number::<usize>(&byte)?] ^= 1;
    block.transfer(WRITE).map_err(fail)
}

impl Block {
    fn open(path: &str, lba: u64, data: usize, metadata: usize) -> io::Result<Self> {
        let namespace = OpenOptions::new().read(true).write(true).open(path)?;
        // SAFETY: this ioctl takes no argument.
        let nsid = unsafe { libc::ioctl(namespace.as_raw_fd(), GET_NSID) };
        let nsid = u32::try_from(nsid).map_err(|_| io::Error::last_os_error())?;
        Ok(Self { namespace, nsid, lba, data: vec![0; data], metadata: vec![0; metadata] })
    }

    fn transfer(&mut self, opcode: u8) -> io::Result<()> {
        let mut command = Command {
            opcode,
            nsid: self.nsid,
            metadata: self.metadata.as_mut_ptr() as u64,
            address: self.data.as_mut_ptr() as u64,
            metadata_len: u32::try_from(self.metadata.len()).map_err(io::Error::other)?,
            data_len: u32::try_from(self.data.len()).map_err(io::Error::other)?,
            // no check of any tag, one block
            cdw10_to_15: [(self.lba & 0xffff_ffff) as u32, (self.lba >> 32) as u32, 0, 0, 0, 0],
            ..Command::default()
        };
        // SAFETY: the command's buffers are as long as it says and outlive the call.
        match unsafe { libc::ioctl(self.namespace.as_raw_fd(), IO_COMMAND, &raw mut command) } {
            0 => Ok(()),
            status if status > 0 => Err(io::Error::other(format!("NVMe status {status:x}"))),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
