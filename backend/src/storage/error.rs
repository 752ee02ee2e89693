//! Errors of images and their sidecars. Each is one line with the failure, the file and the cure.

use std::io;
use std::path::{Path, PathBuf};

use integrity::sidecar::{SuperblockError, TwoMoments};

use crate::storage::image::{Format, Holder, LockError};
use crate::storage::sidecar_path;
use crate::storage::trace::Trace;

/// The exit status that says that an image and its sidecar are of two moments.
pub const EXIT_TWO_MOMENTS: u8 = 4;

/// Why a command could not do its work, or could not begin it. Sizes are in bytes.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The image is not there.
    #[error("there is no image {image}: make one with `stableblk create {image} --size SIZE`", image = .0.display())]
    NoImage(PathBuf),
    /// The path names something that cannot hold an image or a sidecar.
    #[error("{} is {kind}: name a regular file{}", path.display(), if *device { " or a block device" } else { "" })]
    WrongKind {
        /// The path that was named.
        path: PathBuf,
        /// The kind of file, with its article.
        kind: &'static str,
        /// Whether a block device would have done.
        device: bool,
    },
    /// There is no such group.
    #[error("there is no group {0}: name an existing one with --socket-group")]
    NoGroup(String),
    /// This user may not open the file in this way.
    #[error("no permission to {action} {}: run as a user with that permission, or change the file's owner or mode", path.display())]
    Permission {
        /// The action that failed.
        action: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// Another process has the file locked.
    #[error("{} is in use by {holder}: {}", path.display(), holder.cure())]
    InUse {
        /// The locked file.
        path: PathBuf,
        /// The holder of the lock.
        holder: Holder,
    },
    /// The image does not consist of whole intervals.
    #[error("{} has {size} bytes, not a positive multiple of the {interval_size}-byte interval: {}",
        image.display(), uneven_size_cure(image, *size, *interval_size))]
    UnevenSize {
        /// The image.
        image: PathBuf,
        /// The size it has.
        size: u64,
        /// The size of one interval.
        interval_size: usize,
    },
    /// An image of this size would not consist of whole intervals.
    #[error(
        "size {size} is not a positive multiple of the {interval_size}-byte interval: use `--size {rounded}`"
    )]
    UnevenNewSize {
        /// The size asked for.
        size: u64,
        /// The size of one interval.
        interval_size: u64,
        /// The next larger size that will do.
        rounded: u64,
    },
    /// A guest's disk would lose its end, which guests do not handle.
    #[error("{} has {now} bytes, and does not shrink to {size}: make a smaller image with `stableblk create`, and copy what it is to hold", image.display())]
    Shrinks {
        /// The image.
        image: PathBuf,
        /// The size it has.
        now: u64,
        /// The size asked for.
        size: u64,
    },
    /// A device has the size that its owner gives it.
    #[error("{} is a block device of {now} bytes, not of {size}: grow the device first", device.display())]
    GrowDeviceFirst {
        /// The device.
        device: PathBuf,
        /// The size it has.
        now: u64,
        /// The size asked for.
        size: u64,
    },
    /// A block that was named is behind the end of the image.
    #[error("{} has no block {lba}: its {blocks} blocks are 0 to {}", image.display(), blocks - 1)]
    NoSuchBlock {
        /// The image.
        image: PathBuf,
        /// The block that was named.
        lba: u64,
        /// The number of blocks.
        blocks: u64,
    },
    /// The backup is the image.
    #[error("{} is the image itself, not a backup of it", .0.display())]
    OwnBackup(PathBuf),
    /// The sidecar was not made for images that large.
    #[error("the sidecar of {} has no room for {size} bytes: give the image that size, and make a new sidecar with `stableblk protect --force`", image.display())]
    CannotGrow {
        /// The image.
        image: PathBuf,
        /// The size asked for.
        size: u64,
        /// The limit that it exceeds.
        #[source]
        source: SuperblockError,
    },
    /// There can be no sidecar for such an image.
    #[error("{} cannot have a sidecar", image.display())]
    Unprotectable {
        /// The image.
        image: PathBuf,
        /// Why not.
        #[source]
        source: SuperblockError,
    },
    /// A command that makes files never overwrites one.
    #[error("{} exists already: {cure}", path.display())]
    Exists {
        /// The file that is in the way.
        path: PathBuf,
        /// The cure.
        cure: &'static str,
    },
    /// A block device has no directory beside it that outlives a restart.
    #[error("{} is a block device: name a file for its sidecar with `--integrity PATH`", .0.display())]
    NoPlaceForSidecar(PathBuf),
    /// The image has no sidecar where it should be.
    #[error("{} has no sidecar {}: {}", image.display(), sidecar.display(),
        no_sidecar_cure(image, sidecar, trace.as_deref()))]
    NoSidecar {
        /// The image.
        image: PathBuf,
        /// Where its sidecar should be.
        sidecar: PathBuf,
        /// Evidence that it had one.
        trace: Option<Box<Trace>>,
    },
    /// The image had a sidecar, which may know of damage that a new one would take as right.
    #[error("{} gets no new sidecar: {trace}", image.display())]
    WasProtected {
        /// The image.
        image: PathBuf,
        /// The evidence that it was protected.
        trace: Box<Trace>,
    },
    /// There is something in the place of a new sidecar that is not the image's old one.
    #[error("{} is {what}, and is left as it is: name another file for the sidecar with \
        `--integrity PATH`, or move it away", path.display())]
    NotReplaced {
        /// The file.
        path: PathBuf,
        /// The kind of file.
        what: String,
    },
    /// The image begins as one of another format does.
    #[error("{} is {}, not a raw image: {}, or take its bytes as they are with `--force`",
        image.display(), format.name(), format.cure(image))]
    ForeignFormat {
        /// The image.
        image: PathBuf,
        /// The format that it seems to have.
        format: Format,
    },
    /// The file cannot be used as a sidecar.
    #[error("{} is no usable sidecar, {reason}: restore it, or move it away and make another with \
        `stableblk protect --force`", path.display())]
    BadSidecar {
        /// The file.
        path: PathBuf,
        /// The fault of its superblock. Not a source, because the cure is to come last.
        reason: SuperblockError,
    },
    /// The UUID in the sidecar is not that of the image.
    #[error("{} is the sidecar of another image, not of {}: its UUID is {actual}, the image's {expected}; \
        {}", sidecar.display(), image.display(), foreign_sidecar_cure(found.as_deref()))]
    ForeignSidecar {
        /// The sidecar.
        sidecar: PathBuf,
        /// The image it was given for.
        image: PathBuf,
        /// The UUID that the image carries.
        expected: uuid::Uuid,
        /// The UUID that the sidecar carries.
        actual: uuid::Uuid,
        /// The right one, where it was found.
        found: Option<PathBuf>,
    },
    /// The image may have been written without it.
    #[error("{image} was served without its sidecar {} (`--integrity none --force`) and may have been written since: \
        take what it holds now as right with `stableblk protect --force {image}`",
        sidecar.display(), image = image.display())]
    StaleSidecar {
        /// The sidecar.
        sidecar: PathBuf,
        /// The image.
        image: PathBuf,
    },
    /// The end of the image is gone, with what a guest wrote there.
    #[error("{} is truncated: it has {size} bytes, and its sidecar {} covers {covered}; restore the image from a \
        backup, or give it its length back with `truncate -s {covered} {}`, after which `stableblk check` names the \
        blocks that are lost", image.display(), sidecar.display(), image.display())]
    TruncatedImage {
        /// The image.
        image: PathBuf,
        /// The sidecar of the image.
        sidecar: PathBuf,
        /// The size of image that the sidecar covers.
        covered: u64,
        /// The size of the image.
        size: u64,
    },
    /// Image and sidecar were not written last in the same session, or not up to the same moment of
    /// it.
    #[error("{} and its image are of two moments: {reason}; put back the two that were closed together, or accept what the image \
        holds with `stableblk accept --force`", sidecar.display())]
    TwoMoments {
        /// The sidecar.
        sidecar: PathBuf,
        /// How that is known. Not a source, for the cure is to come last.
        reason: TwoMoments,
    },
    /// The sidecar covers a smaller image, and it is not known to be the image's own.
    #[error("{} is the sidecar of an image of {covered} bytes, but {} has {size}: name the right one with \
        `--integrity PATH`, or follow a grown image with `stableblk resize`", sidecar.display(), image.display())]
    SizeDiffers {
        /// The sidecar.
        sidecar: PathBuf,
        /// The image it was given for.
        image: PathBuf,
        /// The size of image that the sidecar covers.
        covered: u64,
        /// The size of the image.
        size: u64,
    },
    /// The sidecar ends before its last tuple.
    #[error("{} is truncated: {len} bytes long, should be {expected}; restore it, or make a new one with \
        `stableblk protect --force`", path.display())]
    TruncatedSidecar {
        /// The sidecar.
        path: PathBuf,
        /// The length of the file.
        len: u64,
        /// The length that its header asks for.
        expected: u64,
    },
    /// Nothing can be written there.
    #[error("cannot {action} {}, which is on a read-only file system: remount that read-write, name a place \
        elsewhere, or serve an image with `--read-only`", path.display())]
    ReadOnlyFileSystem {
        /// The action that failed.
        action: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// There is no space left for a file.
    #[error("no space left for {}: free some, or name a file on another file system", .0.display())]
    NoSpace(PathBuf),
    /// A part of the image cannot be read.
    #[error("cannot read {} at byte {offset}", path.display())]
    ReadAt {
        /// The image.
        path: PathBuf,
        /// Where the read began.
        offset: u64,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// Any other failure of the operating system.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The action that failed.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
}

impl ImageError {
    /// The exit status of a command that has failed with this: `usual` for most errors.
    #[must_use]
    pub fn exit_status(&self, usual: u8) -> u8 {
        if matches!(self, Self::TwoMoments { .. }) { EXIT_TWO_MOMENTS } else { usual }
    }

    /// Whether a person must act before the same command can work.
    #[must_use]
    pub fn needs_person(&self) -> bool {
        let passes = |source: &io::Error| source.kind() != io::ErrorKind::NotFound;
        match self {
            Self::InUse { .. } | Self::NoSpace(_) | Self::ReadAt { .. } => false,
            Self::Io { source, .. } => !passes(source),
            _ => true,
        }
    }

    /// For `map_err`: a failure to lock `path`.
    pub(crate) fn lock(path: &Path) -> impl FnOnce(LockError) -> Self {
        move |error| match error {
            LockError::InUse(holder) => Self::InUse { path: path.to_owned(), holder },
            LockError::Io(error) => Self::io("lock", path)(error),
        }
    }

    /// For `map_err`: a failure to do `action` to `path`.
    pub fn io<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Self {
        move |source| {
            let (path, source) = (path.to_owned(), source.into());
            match source.kind() {
                io::ErrorKind::PermissionDenied => Self::Permission { action, path },
                io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnlyFileSystem { action, path },
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace(path),
                _ => Self::Io { action, path, source },
            }
        }
    }
}

fn no_sidecar_cure(image: &Path, sidecar: &Path, trace: Option<&Trace>) -> String {
    trace.map_or_else(
        || {
            let option = integrity_option(image, sidecar);
            format!("make it with `stableblk protect {}{option}`", image.display())
        },
        Trace::to_string,
    )
}

fn foreign_sidecar_cure(found: Option<&Path>) -> String {
    match found {
        Some(path) => format!("the image's own was found: use `--integrity {}`", path.display()),
        None => "name the right one with `--integrity PATH`, or move this one away and make another with \
            `stableblk protect --force`"
            .to_owned(),
    }
}

/// The option that names a sidecar which is not at its default place.
fn integrity_option(image: &Path, sidecar: &Path) -> String {
    if sidecar == sidecar_path::default_path(image) {
        String::new()
    } else {
        format!(" --integrity {}", sidecar.display())
    }
}

fn uneven_size_cure(image: &Path, size: u64, interval_size: usize) -> String {
    let image = image.display();
    if size == 0 {
        "give it a size with `truncate -s SIZE`".to_owned()
    } else if size.is_multiple_of(512) {
        format!("use `--interval 512`, or pad it with `truncate -s %{interval_size} {image}`")
    } else {
        format!("pad it with `truncate -s %{interval_size} {image}`")
    }
}
