//! A group of disks that share limits, by a file that each maps. Its contents are untrusted: each
//! value is bounded when it is read.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::table::Table;
use crate::guest::mapping::{self, MappingError};

/// The first word of the file: "sblklim1".
const MAGIC: u64 = u64::from_le_bytes(*b"sblklim1");

/// Why a disk cannot be in a group.
#[derive(Debug, Error)]
pub enum LimitGroupError {
    /// The file cannot be opened or made.
    #[error("cannot open the limit group {}: name a file in a directory that is writable, for example in /run", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file is another one.
    #[error("{} is not the file of a limit group, and is left as it is: name another file", .0.display())]
    OtherFile(PathBuf),
    /// The file cannot be mapped.
    #[error("cannot map the limit group {}", path.display())]
    Map {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: MappingError,
    },
}

/// The limits of a group.
#[derive(Debug)]
pub(super) struct LimitGroup {
    table: Table,
}

impl LimitGroup {
    /// Joins the group of the file at `path`, which is made if there is none.
    pub(super) fn open(path: &Path) -> Result<Self, LimitGroupError> {
        let file = open(path).map_err(|source| LimitGroupError::Open { path: path.to_owned(), source })?;
        let Some(file) = file else {
            return Err(LimitGroupError::OtherFile(path.to_owned()));
        };
        let mapping = mapping::map(file, 0, Table::LEN, ())
            .map_err(|source| LimitGroupError::Map { path: path.to_owned(), source })?;
        let table = Table::Mapped(mapping);
        if !table.claim(MAGIC) {
            return Err(LimitGroupError::OtherFile(path.to_owned()));
        }
        Ok(Self { table })
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(&self.table, Table::Mapped(mapping) if mapping.loss().is_some())
    }

    /// Why the file cannot be used any more, if so.
    pub(super) fn loss(&self) -> Option<String> {
        match &self.table {
            Table::Mapped(mapping) => mapping.loss().map(|loss| loss.to_string()),
            Table::Own(_) => None,
        }
    }
}

/// The file, of the right length; none if it is another file.
fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let options =
        OpenOptions::new().read(true).write(true).create(true).mode(0o660).custom_flags(flags).clone();
    let file = options.open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || ![0, Table::LEN].contains(&meta.len()) {
        return Ok(None);
    }
    file.set_len(Table::LEN)?;
    Ok(Some(file))
}
