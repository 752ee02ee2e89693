//! Finds out to which image a sidecar belongs, and finds a sidecar that is not in its place.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use integrity::sidecar::{SECTOR_SIZE, SUPERBLOCK_SIZE, Superblock};
use uuid::Uuid;

use crate::storage::error::ImageError;
use crate::storage::image::{Image, read_up_to};
use crate::storage::trace::Trace;

/// Entries of a directory that are looked at, so that a large directory does not take a minute.
const ENTRIES_MAX: usize = 4096;

/// The UUIDs in the superblocks of `file`: none when it is not a sidecar, two when its copies
/// differ. A damaged superblock counts too.
pub(crate) fn claimed_uuids(file: &File) -> io::Result<Vec<Uuid>> {
    let mut uuids = Vec::new();
    for copy in [0, SUPERBLOCK_SIZE] {
        let mut sector = [0; SECTOR_SIZE];
        read_up_to(file, copy, &mut sector)?;
        uuids.extend(Superblock::claimed_uuid(&sector).map(Uuid::from_bytes));
    }
    uuids.dedup();
    Ok(uuids)
}

/// Opens a file of any kind for reading. Does not wait, even for a FIFO.
pub(crate) fn open_to_look(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

impl Trace {
    /// The trace of `image`, whose sidecar should be at `named`; `None` when the image carries no
    /// UUID. Looks for its sidecar beside the image, beside the target of a symbolic link, and
    /// beside `named`.
    pub(crate) fn of(image: &Image, named: &Path) -> Result<Option<Self>, ImageError> {
        let uuids = image.uuids()?;
        let Some(&uuid) = uuids.first() else { return Ok(None) };
        let found = find(image.path(), named, &uuids);
        Ok(Some(Self { image: image.path().to_owned(), uuid, found }))
    }
}

/// The first sidecar, by name, with one of `uuids` in the directories where one may be.
fn find(image: &Path, named: &Path, uuids: &[Uuid]) -> Option<PathBuf> {
    let target = image.canonicalize().ok();
    let mut directories: Vec<&Path> = [Some(image), target.as_deref(), Some(named)]
        .into_iter()
        .flatten()
        .filter_map(Path::parent)
        .collect();
    directories.dedup();
    directories.into_iter().find_map(|directory| find_in(directory, uuids))
}

fn find_in(directory: &Path, uuids: &[Uuid]) -> Option<PathBuf> {
    let is_here = directory == Path::new("");
    let entries = fs::read_dir(if is_here { Path::new(".") } else { directory }).ok()?;
    let mut sidecars: Vec<_> = entries
        .take(ENTRIES_MAX)
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().contains(".pi"))
        .map(|entry| if is_here { entry.file_name().into() } else { entry.path() })
        .filter(|path: &PathBuf| path.metadata().is_ok_and(|metadata| metadata.is_file()))
        .filter(|path| {
            let claimed = open_to_look(path).and_then(|file| claimed_uuids(&file));
            claimed.is_ok_and(|claimed| claimed.iter().any(|uuid| uuids.contains(uuid)))
        })
        .collect();
    sidecars.sort();
    sidecars.into_iter().next()
}
