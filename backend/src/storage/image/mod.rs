//! The raw image: a regular file or a block device, opened, locked and measured once.

use std::fs::{File, FileType, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{SeekFrom, XattrFlags};
use rustix::io::Errno;
use uuid::Uuid;

use crate::storage::durability::Durability;
use crate::storage::error::ImageError;
use crate::storage::loss_mark::LossMark;
use crate::storage::reopen::reopen;
use crate::storage::size::StorageSize;

mod access;
mod direct_io;
mod format;
mod holder;
mod lock;
mod qemu_lock;
mod stale;

pub use access::Access;
pub use direct_io::{Alignment, DirectIo};
pub use format::Format;
pub(crate) use format::read_up_to;
pub use holder::Holder;
use lock::EXIT_POLL_INTERVAL;
pub(crate) use lock::{LockError, holder, lock};

/// The extended attribute by which an image and its sidecar know each other. Its value is a UUID in
/// text form, or two with a space between them.
const UUID_ATTRIBUTE: &str = "user.stableblk.uuid";

/// An open image.
///
/// The lock belongs to the open file description of [`file`](Self::file), by which all I/O goes
/// too. So the lock of a process that was killed lasts until the kernel has finished the I/O that
/// the process had under way.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    file: File,
    access: Access,
    size: u64,
    is_block_device: bool,
    /// `None` when I/O goes through the page cache.
    direct_alignment: Option<Alignment>,
    durability: Durability,
}

impl Image {
    /// Opens and locks the image at `path`, and turns direct I/O on where `direct_io` and the file
    /// system have it.
    ///
    /// Refuses what is neither a regular file nor a block device, what is in use, and for
    /// [`ReadWrite`](Access::ReadWrite) a block device that is mounted.
    pub fn open(path: &Path, access: Access, direct_io: DirectIo) -> Result<Self, ImageError> {
        let file_type = match path.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ImageError::NoImage(path.to_owned()));
            }
            metadata => metadata.map_err(ImageError::io("look at", path))?.file_type(),
        };
        // before it is opened, for opening a FIFO would wait and opening a device may have effects
        refuse_other_kinds(path, file_type, true)?;
        let file = open_image(path, access, file_type)?;
        lock(&file, access).map_err(ImageError::lock(path))?;
        let size = rustix::fs::seek(&file, SeekFrom::End(0)).map_err(ImageError::io("measure", path))?;
        let direct_alignment =
            direct_io.turn_on(&file).map_err(ImageError::io("set up direct I/O on", path))?;
        let is_block_device = file_type.is_block_device();
        let (path, durability) = (path.to_owned(), Durability::default());
        Ok(Self { path, file, access, size, is_block_device, direct_alignment, durability })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file description that holds the lock and does the I/O.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The purpose that it was opened for.
    #[must_use]
    pub fn access(&self) -> Access {
        self.access
    }

    /// The size that it has now, which other programs may have changed.
    pub(crate) fn storage_size(&self) -> io::Result<StorageSize> {
        let bytes = rustix::fs::seek(&self.file, SeekFrom::End(0))?;
        Ok(StorageSize { bytes, is_extensible: !self.is_block_device })
    }

    /// Another open file description of the image, to sync it while other threads do: see
    /// [`reopen`].
    pub(crate) fn open_for_sync(&self) -> io::Result<File> {
        reopen(&self.file, OpenOptions::new().read(true))
    }

    /// Extends a regular file that is smaller to `size` bytes, durably, with a hole.
    pub(crate) fn extend(&self, size: u64) -> io::Result<()> {
        let for_sync = self.open_for_sync()?;
        if self.storage_size()?.bytes < size {
            self.file.set_len(size)?;
        }
        // a program that made it larger may not have synced it
        self.durability.outcome(for_sync.sync_all())
    }

    /// From now on losses of durability are recorded on the image, and a flush fails for an earlier
    /// one. To be called when it is served for writing.
    pub(crate) fn mark_losses(&mut self) -> io::Result<()> {
        self.durability = Durability::marked(LossMark::of(&self.file)?);
        Ok(())
    }

    /// Makes written data durable, for the last time. If that fails, or a sync has failed before,
    /// the loss is recorded for the next owner.
    pub(crate) fn close(&self) -> io::Result<()> {
        self.durability.close(self.file.sync_data())
    }

    /// Whether it carries the mark that durability was lost, and no flush has failed for it since.
    pub(crate) fn durability_lost(&self) -> bool {
        LossMark::is_on(&self.file)
    }

    /// Whether data written to it can still be made durable.
    pub(crate) fn durability(&self) -> &Durability {
        &self.durability
    }

    /// Its size when it was opened or [grown](Self::grow), in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Extends a regular file to `size` bytes, durably, with a hole.
    pub fn grow(&mut self, size: u64) -> io::Result<()> {
        self.file.set_len(size)?;
        self.file.sync_all()?;
        self.size = size;
        Ok(())
    }

    /// The format other than raw that it seems to have.
    pub(crate) fn foreign_format(&self) -> Result<Option<Format>, ImageError> {
        Format::of(&self.file, self.size).map_err(ImageError::io("read", &self.path))
    }

    /// Whether it is a block device rather than a regular file.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.is_block_device
    }

    /// Whether I/O goes past the page cache.
    #[must_use]
    pub fn is_direct(&self) -> bool {
        self.direct_alignment.is_some()
    }

    /// How requests must be aligned; 1 when I/O goes through the page cache.
    #[must_use]
    pub fn alignment(&self) -> Alignment {
        self.direct_alignment.unwrap_or(Alignment::ANY)
    }

    /// The UUIDs of sidecars that are the image's own: one, or two when
    /// [`announce_uuid`](Self::announce_uuid) was not followed by [`set_uuid`](Self::set_uuid).
    /// There are none when the image was copied without its attributes, or its file system has no
    /// attributes.
    pub fn uuids(&self) -> Result<Vec<Uuid>, ImageError> {
        self.uuids_in(UUID_ATTRIBUTE)
    }

    fn uuids_in(&self, attribute: &str) -> Result<Vec<Uuid>, ImageError> {
        uuids_in(&self.file, attribute).map_err(ImageError::io("read the UUID of", &self.path))
    }

    /// Gives the image a UUID to carry.
    pub fn set_uuid(&self, uuid: Uuid) -> io::Result<()> {
        set_uuid(&self.file, uuid)?;
        self.forget_stale_sidecars();
        Ok(())
    }

    /// Lets the image carry `uuid` besides the one it has, if it has one, until
    /// [`set_uuid`](Self::set_uuid). While one sidecar replaces another, both are its own.
    pub fn announce_uuid(&self, uuid: Uuid) -> io::Result<()> {
        let Some(old) = self.uuids().map_err(io::Error::other)?.first().copied() else {
            return Ok(());
        };
        set_attribute(&self.file, UUID_ATTRIBUTE, &format!("{old} {uuid}"))?;
        self.file.sync_all()
    }

    /// The first byte at or after `offset` that may be other than zero: holes are skipped.
    pub fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        next_data(&self.file, offset)
    }

    /// The process that has the image locked, for an image that was opened for inspection.
    #[must_use]
    pub fn holder(&self) -> Option<Holder> {
        holder(&self.file)
    }
}

/// Reads until there are `len` bytes in `buffer`, which may have room for more: direct I/O reads
/// whole blocks, even past the end of the file.
pub(crate) fn read_at_least(file: &File, offset: u64, len: usize, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// See [`Image::uuids`]; for a file that may be no image.
pub(crate) fn carried_uuids(file: &File) -> io::Result<Vec<Uuid>> {
    uuids_in(file, UUID_ATTRIBUTE)
}

fn uuids_in(file: &File, attribute: &str) -> io::Result<Vec<Uuid>> {
    let mut text = [0; 2 * uuid::fmt::Hyphenated::LENGTH + 2];
    match rustix::fs::fgetxattr(file, attribute, &mut text) {
        Ok(len) => {
            let uuids = text[..len].split(|&byte| byte == b' ').map(Uuid::try_parse_ascii);
            uuids.collect::<Result<_, _>>().map_err(|error| {
                let reason = format!(
                    "the attribute {attribute} holds no UUID ({error}): set it to that of the sidecar with \
                     `setfattr -n {attribute} -v UUID`, or remove it with `setfattr -x {attribute}`"
                );
                io::Error::new(io::ErrorKind::InvalidData, reason)
            })
        }
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

/// See [`Image::set_uuid`]; for a file that is not an image yet.
pub(crate) fn set_uuid(file: &File, uuid: Uuid) -> io::Result<()> {
    set_attribute(file, UUID_ATTRIBUTE, &uuid.hyphenated().to_string())
}

fn set_attribute(file: &File, name: &str, text: &str) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(file, name, text.as_bytes(), XattrFlags::empty())?)
}

/// See [`Image::next_data`].
pub(crate) fn next_data(file: &File, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(data) => Ok(Some(data)),
        Err(Errno::NXIO) => Ok(None),
        // block devices know of no holes
        Err(Errno::INVAL) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

/// Refuses files that are not regular; a block device passes where `device` says so.
pub(crate) fn refuse_other_kinds(path: &Path, file_type: FileType, device: bool) -> Result<(), ImageError> {
    if file_type.is_file() || (device && file_type.is_block_device()) {
        return Ok(());
    }
    Err(ImageError::WrongKind { path: path.to_owned(), kind: kind(file_type), device })
}

/// The name of a kind of file, with its article.
pub(crate) fn kind(file_type: FileType) -> &'static str {
    match file_type {
        it if it.is_file() => "a regular file",
        it if it.is_dir() => "a directory",
        it if it.is_block_device() => "a block device",
        it if it.is_char_device() => "a character device",
        it if it.is_fifo() => "a FIFO",
        it if it.is_socket() => "a socket",
        _ => "no file",
    }
}

fn open_image(path: &Path, access: Access, file_type: FileType) -> Result<File, ImageError> {
    let mut options = access.open_options();
    if file_type.is_block_device() && access == Access::ReadWrite {
        // for block devices alone: the kernel refuses one that is mounted, and refuses to mount it
        // from then on
        options.custom_flags(libc::O_EXCL);
    }
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => open_busy(path, access, &options),
        opened => opened.map_err(ImageError::io(access.verb(), path)),
    }
}

/// Opens a device that is busy: a process that was killed keeps it until its I/O has ended, and the
/// lock until shortly before.
fn open_busy(path: &Path, access: Access, options: &OpenOptions) -> Result<File, ImageError> {
    const TRIES: usize = 10;
    let shared = access.open_options().open(path).map_err(ImageError::io(access.verb(), path))?;
    lock(&shared, access).map_err(ImageError::lock(path))?;
    drop(shared);
    for _ in 0..TRIES {
        match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => thread::sleep(EXIT_POLL_INTERVAL),
            opened => return opened.map_err(ImageError::io(access.verb(), path)),
        }
    }
    Err(ImageError::InUse { path: path.to_owned(), holder: Holder::Kernel })
}
