//! A namespace's character device: opened, locked, and identified.

#![expect(unsafe_code, reason = "the ioctls have no safe wrapper")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::format::{NamespaceFormat, UnusableFormat};
use super::identify::{IDENTIFY_SIZE, IdentifyController, IdentifyNamespace, IdentifyNvmNamespace};
use super::status::NvmeStatus;
use crate::device::bounce::FOLIO_SIZE_MAX;
use crate::storage::durability::Durability;
use crate::storage::error::ImageError;
use crate::storage::image::{Access, Holder, lock};
use crate::storage::loss_mark::LossMark;

/// `NVME_IOCTL_ID`, `_IO('N', 0x40)`.
const GET_NSID: libc::Ioctl = 0x4e40;
/// `NVME_IOCTL_ADMIN_CMD`, `_IOWR('N', 0x41, struct nvme_admin_cmd)`.
const ADMIN_COMMAND: libc::Ioctl = 0xc048_4e41;
/// `NVME_IOCTL_IO_CMD`, `_IOWR('N', 0x43, struct nvme_passthru_cmd)`.
const IO_COMMAND: libc::Ioctl = 0xc048_4e43;
/// Opcode of an admin command.
const IDENTIFY: u8 = 0x06;
/// Opcode of an I/O command.
const FLUSH: u8 = 0x00;
/// A page that is not aligned makes one segment more.
const PAGE_SIZE: usize = 4096;

/// Why a namespace cannot be used.
#[derive(Debug, Error)]
pub enum NamespaceError {
    /// It cannot be opened, or is in use.
    #[error(transparent)]
    Open(#[from] ImageError),
    /// It is a character device of another kind.
    #[error("{} is no NVMe namespace's character device, /dev/ngXnY", .0.display())]
    NotNvme(PathBuf),
    /// It cannot be identified.
    #[error("cannot identify {}", path.display())]
    Identify {
        /// The device.
        path: PathBuf,
        /// The error of the kernel.
        #[source]
        source: io::Error,
    },
    /// The namespace has a format that cannot be served.
    #[error("cannot serve {}", path.display())]
    Format {
        /// The device.
        path: PathBuf,
        /// Why not.
        #[source]
        source: UnusableFormat,
    },
}

/// An open namespace.
#[derive(Debug)]
pub struct Namespace {
    path: PathBuf,
    file: File,
    durability: Durability,
    /// The block device of the same namespace, held so that it cannot be mounted meanwhile.
    _block_device: Option<File>,
    pub(super) nsid: u32,
    format: NamespaceFormat,
    blocks: u64,
    transfer_max: usize,
    pub(super) has_dataset_management: bool,
    pub(super) has_write_zeroes: bool,
}

impl Namespace {
    /// Whether `path` names a namespace's character device, so that [`Self::open`] is what to do
    /// with it.
    pub fn is_at(path: &Path) -> bool {
        block_name(path).is_some()
    }

    /// Opens and locks the namespace at `path`. Refuses one whose block device is mounted or
    /// otherwise held.
    pub fn open(path: &Path, access: Access) -> Result<Self, NamespaceError> {
        let identify = |source| NamespaceError::Identify { path: path.to_owned(), source };
        // before it is opened, for opening another device may have effects
        let block_name = block_name(path).ok_or_else(|| NamespaceError::NotNvme(path.to_owned()))?;
        let file = access.open_options().open(path).map_err(ImageError::io(access.verb(), path))?;
        lock(&file, access).map_err(ImageError::lock(path))?;
        let block_device = match access {
            Access::Inspect | Access::Preview => None,
            Access::Read | Access::ReadWrite => hold(path, &block_name)?,
        };
        // SAFETY: this ioctl takes no argument and accesses no memory of this process.
        let nsid = unsafe { libc::ioctl(file.as_raw_fd(), GET_NSID) };
        let nsid = u32::try_from(nsid).map_err(|_| identify(io::Error::last_os_error()))?;
        let controller = IdentifyController(identify_structure(&file, 0, 0x01).map_err(identify)?);
        let namespace = IdentifyNamespace(identify_structure(&file, nsid, 0x00).map_err(identify)?);
        let nvm = identify_structure(&file, nsid, 0x05).ok().map(IdentifyNvmNamespace);
        let format = NamespaceFormat::of(&namespace, nvm.as_ref())
            .map_err(|source| NamespaceError::Format { path: path.to_owned(), source })?;
        Ok(Self {
            path: path.to_owned(),
            durability: Durability::default(),
            file,
            _block_device: block_device,
            nsid,
            format,
            blocks: namespace.size(),
            transfer_max: transfer_max(&controller, &format, &block_name),
            has_dataset_management: controller.has_dataset_management(),
            has_write_zeroes: controller.has_write_zeroes(),
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open character device.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// From now on losses of durability are recorded on its node, and a flush fails for an earlier
    /// one. To be called when it is served for writing.
    pub fn mark_losses(&mut self) -> io::Result<()> {
        self.durability = Durability::marked(LossMark::of(&self.file)?);
        Ok(())
    }

    /// Whether data written to it can still be made durable.
    pub fn durability(&self) -> &Durability {
        &self.durability
    }

    /// How it is formatted.
    pub fn format(&self) -> &NamespaceFormat {
        &self.format
    }

    /// Size of its data, in bytes.
    pub fn capacity(&self) -> u64 {
        self.blocks * self.format.block_size as u64
    }

    /// Size of its data now, in bytes. Asks the controller.
    pub(super) fn measure(&self) -> io::Result<u64> {
        let namespace = IdentifyNamespace(identify_structure(&self.file, self.nsid, 0x00)?);
        namespace
            .size()
            .checked_mul(self.format.block_size as u64)
            .ok_or_else(|| io::Error::other("the controller reports an impossible size"))
    }

    /// Makes written data durable, and waits for that.
    pub(super) fn flush(&self) -> io::Result<()> {
        PassthroughCommand::Flush { nsid: self.nsid }.run(&self.file)
    }

    /// Most bytes of data in one command, a power of two.
    pub fn transfer_max(&self) -> usize {
        self.transfer_max
    }
}

/// The name of the block device of the same namespace, such as `nvme0n1`; `None` when `path` is not
/// one's character device.
fn block_name(path: &Path) -> Option<String> {
    let meta = path.metadata().ok().filter(|meta| meta.file_type().is_char_device())?;
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let device = fs::canonicalize(format!("/sys/dev/char/{major}:{minor}")).ok()?;
    let name = device.file_name()?.to_str()?;
    Some(format!("nvme{}", name.strip_prefix("ng")?))
}

/// Opens the block device beside the character device at `path` for us alone; there may be none.
fn hold(path: &Path, block_name: &str) -> Result<Option<File>, ImageError> {
    let block = path.with_file_name(block_name);
    match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&block) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Err(ImageError::InUse { path: path.to_owned(), holder: Holder::Kernel })
        }
        Err(error) => Err(ImageError::io("read", &block)(error)),
    }
}

/// A command that the kernel passes on and waits for, with the memory that the controller writes
/// to.
enum PassthroughCommand<'a> {
    /// Fills in the Identify data structure `cns` of the NVM command set.
    Identify { nsid: u32, cns: u32, data: &'a mut [u8; IDENTIFY_SIZE] },
    /// Makes written data durable.
    Flush { nsid: u32 },
}

/// `struct nvme_passthru_cmd` of `linux/nvme_ioctl.h`.
#[repr(C)]
#[derive(Default)]
struct RawCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_len: u32,
    data_len: u32,
    dwords: [u32; 6],
    timeout_ms: u32,
    result: u32,
}

impl PassthroughCommand<'_> {
    /// Has the controller of `file` do it.
    fn run(self, file: &File) -> io::Result<()> {
        let (ioctl, mut raw) = match self {
            Self::Identify { nsid, cns, data } => {
                let command = RawCommand {
                    opcode: IDENTIFY,
                    nsid,
                    address: data.as_mut_ptr() as u64,
                    data_len: u32::try_from(data.len()).expect("4096 bytes"),
                    dwords: [cns, 0, 0, 0, 0, 0],
                    ..RawCommand::default()
                };
                (ADMIN_COMMAND, command)
            }
            Self::Flush { nsid } => (IO_COMMAND, RawCommand { opcode: FLUSH, nsid, ..RawCommand::default() }),
        };
        // SAFETY: both ioctls read and write one `struct nvme_passthru_cmd`, which `raw` is, and
        // return when the command is done. Of the two commands, Identify has the controller write
        // 4096 bytes at `address`; they are those of `data`, which is borrowed mutably past this
        // call. Flush has no data.
        match unsafe { libc::ioctl(file.as_raw_fd(), ioctl, &raw mut raw) } {
            0 => Ok(()),
            -1 => Err(io::Error::last_os_error()),
            status => Err(io::Error::other(NvmeStatus::new(u16::try_from(status).unwrap_or(u16::MAX)))),
        }
    }
}

/// The Identify data structure `cns` of the NVM command set.
fn identify_structure(file: &File, nsid: u32, cns: u32) -> io::Result<Box<[u8; IDENTIFY_SIZE]>> {
    let mut data = Box::new([0_u8; IDENTIFY_SIZE]);
    PassthroughCommand::Identify { nsid, cns, data: &mut data }.run(file)?;
    Ok(data)
}

/// Most bytes of data in one command: what the controller takes, what the kernel's queue takes, and
/// what a folio holds. Interleaved metadata counts too.
fn transfer_max(controller: &IdentifyController, format: &NamespaceFormat, block_name: &str) -> usize {
    let limit = |name: &str| {
        let value = fs::read_to_string(format!("/sys/block/{block_name}/queue/{name}")).ok()?;
        value.trim().parse::<usize>().ok()
    };
    let segments = limit("max_segments").map(|segments| segments.saturating_sub(1) * PAGE_SIZE);
    let sectors = limit("max_hw_sectors_kb").map(|kib| kib << 10);
    let bytes =
        [controller.transfer_max(), segments, sectors].into_iter().flatten().fold(FOLIO_SIZE_MAX, usize::min);
    let block_size = format.block_size;
    let wire_size = block_size + if format.extended { format.profile.metadata_size() } else { 0 };
    let blocks = (bytes / wire_size).max(1);
    block_size << blocks.ilog2()
}
