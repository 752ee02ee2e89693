//! The file `IMAGE.pi` that holds an image's tuples: [`integrity::sidecar`] has its format, this its I/O.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use integrity::IntegrityProfile;
use integrity::sidecar::{HEADER_SIZE, Header, State};
use tracing::warn;
use uuid::Uuid;

use crate::error::Error;
use crate::image::{self, Access, Image};

/// An open sidecar.
///
/// Tuples go through the page cache, so those of neighbouring intervals reach the medium together. All methods may be
/// called from any thread; who may touch which tuples is the caller's to keep apart.
#[derive(Debug)]
pub struct SidecarFile {
    path: PathBuf,
    file: File,
    header: Header,
    access: Access,
}

/// Where the sidecar of `image` is when nobody says otherwise: `.pi` behind the whole name.
#[must_use]
pub fn default_path(image: &Path) -> PathBuf {
    let mut path = OsString::from(image);
    path.push(".pi");
    path.into()
}

impl SidecarFile {
    /// Makes a sidecar of the empty `file`, which is or will be at `path`. All blocks are unwritten: its array is a hole.
    pub fn create(file: File, path: &Path, header: Header) -> Result<Self, Error> {
        file.set_len(header.sidecar_size()).map_err(Error::io("size", path))?;
        file.write_all_at(&header.encode(), 0).map_err(Error::io("write", path))?;
        Ok(Self { path: path.to_owned(), file, header, access: Access::ReadWrite })
    }

    /// Opens the sidecar of `image`, and refuses one that is damaged, truncated or of another image.
    ///
    /// Opened for writing, its state on disk is dirty from now until [`close`](Self::close).
    pub fn open(path: &Path, image: &Image, access: Access) -> Result<Self, Error> {
        let file = open_file(path, image.path(), access)?;
        image::lock(&file, path, access)?;
        let header = read_header(&file, path)?;
        let sidecar = Self { path: path.to_owned(), file, header, access };
        sidecar.refuse_wrong_size(image)?;
        sidecar.refuse_wrong_uuid(image)?;
        sidecar.begin_session()?;
        Ok(sidecar)
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The header as it was when the file was opened; its state says how the last writer left it.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Guard, PI type and interval of the tuples.
    #[must_use]
    pub fn profile(&self) -> &IntegrityProfile {
        self.header.profile()
    }

    /// Fills `tuples`, a whole number of them, with those of `first_interval` and the following.
    pub fn read_tuples(&self, first_interval: u64, tuples: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(tuples, self.offset(first_interval, tuples.len())?)
    }

    /// Writes `tuples`, a whole number of them, as those of `first_interval` and the following.
    pub fn write_tuples(&self, first_interval: u64, tuples: &[u8]) -> io::Result<()> {
        self.file.write_all_at(tuples, self.offset(first_interval, tuples.len())?)
    }

    /// The first interval at or after `interval` that may have been written: what is skipped is holes.
    pub fn next_written(&self, interval: u64) -> io::Result<Option<u64>> {
        let array = self.header.tuple_offset(0);
        let data = image::next_data(&self.file, self.header.tuple_offset(interval))?;
        Ok(data.map(|offset| (offset - array) / self.profile().tuple_size() as u64))
    }

    /// Makes all tuples written so far durable.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Makes all tuples durable and then the sidecar clean; the last thing to call.
    pub fn close(&self) -> io::Result<()> {
        self.sync()?;
        self.set_state_on_disk(State::Clean)
    }

    fn begin_session(&self) -> Result<(), Error> {
        if self.access == Access::ReadWrite && self.header.state() == State::Dirty {
            warn!("{} was not closed cleanly: `stableblk check` tells what it cost", self.path.display());
        }
        self.set_state_on_disk(State::Dirty).map_err(Error::io("write", &self.path))
    }

    /// Durable when it returns. Does nothing to a sidecar that is not open for writing.
    fn set_state_on_disk(&self, state: State) -> io::Result<()> {
        if self.access != Access::ReadWrite {
            return Ok(());
        }
        self.file.write_all_at(&self.header.with_state(state).encode(), 0)?;
        self.sync()
    }

    /// Where the tuples lie; an error unless they are whole and within the array.
    fn offset(&self, first_interval: u64, len: usize) -> io::Result<u64> {
        let tuple_size = self.profile().tuple_size();
        let end = first_interval.checked_add((len / tuple_size) as u64);
        if !len.is_multiple_of(tuple_size) || end.is_none_or(|end| end > self.header.intervals()) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(self.header.tuple_offset(first_interval))
    }

    fn refuse_wrong_size(&self, image: &Image) -> Result<(), Error> {
        let covered = self.header.image_size();
        if covered != image.size() {
            return Err(Error::SizeDiffers {
                sidecar: self.path.clone(),
                image: image.path().to_owned(),
                covered,
                size: image.size(),
            });
        }
        let len = self.file.metadata().map_err(Error::io("look at", &self.path))?.len();
        let expected = self.header.sidecar_size();
        if len < expected {
            return Err(Error::TruncatedSidecar { path: self.path.clone(), len, expected });
        }
        Ok(())
    }

    fn refuse_wrong_uuid(&self, image: &Image) -> Result<(), Error> {
        let actual = Uuid::from_bytes(self.header.uuid());
        match image.uuid()? {
            Some(expected) if expected != actual => Err(Error::ForeignSidecar {
                sidecar: self.path.clone(),
                image: image.path().to_owned(),
                expected,
                actual,
            }),
            Some(_) => Ok(()),
            None => {
                let (image, sidecar) = (image.path().display(), self.path.display());
                warn!("{image} carries no UUID: that {sidecar} belongs to it is judged by its size alone");
                Ok(())
            }
        }
    }
}

impl AsFd for SidecarFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn open_file(path: &Path, image: &Path, access: Access) -> Result<File, Error> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoSidecar { image: image.to_owned(), sidecar: path.to_owned() });
        }
        metadata => {
            let metadata = metadata.map_err(Error::io("look at", path))?;
            image::refuse_other_kinds(path, metadata.file_type(), false)?;
        }
    }
    access.open_options().open(path).map_err(Error::io(access.verb(), path))
}

fn read_header(mut file: &File, path: &Path) -> Result<Header, Error> {
    let mut bytes = Vec::with_capacity(HEADER_SIZE);
    file.by_ref().take(HEADER_SIZE as u64).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Header::decode(&bytes).map_err(|reason| Error::BadSidecar { path: path.to_owned(), reason })
}
