//! The file `IMAGE.pi` that holds an image's tuples, in the format of [`integrity::sidecar`]:
//! opened, locked, and checked to belong to the image.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use integrity::IntegrityProfile;
use integrity::sidecar::{
    self, Change, DamageArea, DamageNotes, IntentMode, Layout, LoadError, Loaded, Recovery, Rules,
    SUPERBLOCK_SIZE, State, Superblock, SuperblockError, TuplePage, TwoMoments,
};
use tracing::warn;
use uuid::Uuid;

use crate::storage::error::ImageError;
use crate::storage::image::{self, Access, Alignment, Image};
use crate::storage::sidecar_media::SidecarMedia;
use crate::storage::sidecar_sample::Sample;
use crate::storage::trace::Trace;

/// Zeros to write at a time.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// An open sidecar, with the image that it belongs to.
#[derive(Debug)]
pub struct SidecarFile {
    path: PathBuf,
    media: SidecarMedia,
    loaded: Loaded,
}

/// Tuples kept in memory while recovering, in bytes. None are read then.
const RECOVERY_CACHE_SIZE: usize = 1 << 20;

/// A sidecar whose file has room for a larger image. Until [`Self::commit`] its superblock is that
/// of the smaller one.
#[derive(Debug)]
pub struct GrowingSidecar {
    /// The sidecar as it will be.
    sidecar: SidecarFile,
    /// The superblock that is on disk.
    loaded: Loaded,
}

impl SidecarFile {
    /// Makes a sidecar of the empty `file`, which is or will be at `path`, for `image`. All blocks
    /// are unwritten: its array is a hole.
    pub fn create(file: File, path: &Path, image: File, superblock: &Superblock) -> Result<Self, ImageError> {
        let layout = superblock.layout();
        file.set_len(layout.sidecar_size()).map_err(ImageError::io("size", path))?;
        // Neither the map nor the log is to have holes: to fill one, a sync would have to wait for
        // the file system's journal.
        let written = [
            (layout.map_offset(), layout.map_used()),
            (layout.log_offset(), layout.array_offset() - layout.log_offset()),
        ];
        for (offset, len) in written {
            write_zeros(&file, offset, len).map_err(ImageError::io("write", path))?;
        }
        // the tuples of a sidecar that is being made are not compared with the image
        let media = SidecarMedia::new(image, Alignment::ANY, file).with_layout(layout);
        superblock.create(&media).map_err(ImageError::io("write", path))?;
        let loaded = Loaded::from(&media).map_err(load_error("read", path))?;
        Ok(Self { path: path.to_owned(), media, loaded })
    }

    /// Opens the sidecar of `image`, and refuses one that is damaged, truncated or of another
    /// image. The image may be larger than the sidecar covers: a growth was cut off, or another
    /// program made it larger.
    pub fn open(path: &Path, image: &Image, access: Access) -> Result<Self, ImageError> {
        let sidecar = Self::open_for_any_size(path, image, access)?;
        sidecar.refuse_truncated(image)?;
        let covered = sidecar.layout().image_size();
        if covered < image.size() {
            // a block device has no UUID to compare
            let is_known = !image.uuids()?.is_empty()
                || image.is_block_device() && Sample::take(&sidecar.media, sidecar.layout()).fits();
            if !is_known || !covered.is_multiple_of(image.alignment().offset.into()) {
                return Err(ImageError::SizeDiffers {
                    sidecar: sidecar.path,
                    image: image.path().to_owned(),
                    covered,
                    size: image.size(),
                });
            }
            warn!(
                "{} has {} bytes, of which its sidecar covers {covered}: a growth was cut off, or another program \
                 made the image larger; only the covered part is used until the image is served for writing, \
                 which finishes the growth",
                image.path().display(),
                image.size()
            );
        }
        Ok(sidecar)
    }

    /// As [`Self::open`], for an image that may have been resized.
    pub fn open_for_any_size(path: &Path, image: &Image, access: Access) -> Result<Self, ImageError> {
        let file = open_file(path, image, access)?;
        image::lock(&file, access).map_err(ImageError::lock(path))?;
        let len = file.metadata().map_err(ImageError::io("look at", path))?.len();
        if len < 2 * SUPERBLOCK_SIZE {
            let reason = SuperblockError::TooShort { len: usize::try_from(len).unwrap_or(usize::MAX) };
            return Err(ImageError::BadSidecar { path: path.to_owned(), reason });
        }
        let image_file = image.file().try_clone().map_err(ImageError::io("open", image.path()))?;
        let media = SidecarMedia::new(image_file, image.alignment(), file)
            .with_durability(image.durability().clone());
        let loaded = Loaded::from(&media).map_err(load_error("read", path))?;
        let layout = loaded.superblock.layout();
        let media = media.with_layout(layout);
        if len < layout.sidecar_size() {
            let expected = layout.sidecar_size();
            return Err(ImageError::TruncatedSidecar { path: path.to_owned(), len, expected });
        }
        if let Some((copy, reason)) = &loaded.damaged {
            warn!("superblock {copy} of {} is damaged, {reason}: the other one is used", path.display());
        }
        let sidecar = Self { path: path.to_owned(), media, loaded };
        sidecar.refuse_wrong_uuid(image)?;
        sidecar.refuse_stale(image, access)?;
        Ok(sidecar)
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The two files.
    #[must_use]
    pub fn media(&self) -> &SidecarMedia {
        &self.media
    }

    /// The two files, to serve them.
    #[must_use]
    pub fn into_media(self) -> SidecarMedia {
        self.media
    }

    /// The superblock as it was when the file was opened.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.loaded.superblock
    }

    /// The superblock with the copy it was of.
    #[must_use]
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The layout of the file.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        self.loaded.superblock.layout()
    }

    /// Guard, PI type and interval of the tuples.
    #[must_use]
    pub fn profile(&self) -> &IntegrityProfile {
        self.layout().profile()
    }

    /// Whether its last writer was cut off, so that the tuple array may not match the image.
    #[must_use]
    pub fn needs_recovery(&self) -> bool {
        self.superblock().state() != State::Clean
    }

    /// The damage list and the record of the scrub. A sidecar without room for them has none, and
    /// neither has one that cannot be read.
    #[must_use]
    pub fn damage(&self) -> DamageNotes {
        let read = DamageArea::read(&self.media, self.superblock());
        let read = read.unwrap_or_else(|error| {
            warn!("cannot read the damage list of {}: {error}", self.path.display());
            None
        });
        read.map_or_else(DamageNotes::default, |(_, notes, _)| notes)
    }

    /// Reads page `page` of the tuple array.
    pub fn read_page(&self, page: u64) -> io::Result<TuplePage> {
        TuplePage::read(self.layout(), &self.media, page)
    }

    /// Writes `tuples`, a whole number of them, as those of `first_interval` and the following, in
    /// place. Only for one thread at a time, and for a sidecar that is not being served.
    pub fn write_tuples(&self, first_interval: u64, tuples: &[u8]) -> io::Result<()> {
        let count = (tuples.len() / self.profile().tuple_size()) as u64;
        let intervals = first_interval..first_interval + count;
        sidecar::change_tuples(self.layout(), &self.media, &intervals, Change::Written(tuples))
    }

    /// The first interval at or after `interval` that may have been written: what is skipped is
    /// holes.
    pub fn next_written(&self, interval: u64) -> io::Result<Option<u64>> {
        self.media.next_written(self.layout(), interval)
    }

    /// Recovers the sidecar if it [needs it](Self::needs_recovery), as serving it would, and closes
    /// it. Returns what was done. Refuses an image of another moment.
    pub fn recover(&mut self) -> Result<Option<Recovery>, LoadError> {
        if !self.needs_recovery() {
            return match TwoMoments::find(&self.media, self.superblock(), None, Rules::all())? {
                Some(reason) => Err(reason.into()),
                None => Ok(None),
            };
        }
        self.reopen(Rules::all())
    }

    /// Begins and ends a session in which nothing is written, with an image that may be of another
    /// moment. From then on both are of the same moment. All blocks that do not match after a crash
    /// are adopted, however many there are.
    pub fn accept_image(&mut self) -> Result<Option<Recovery>, LoadError> {
        self.reopen(Rules::all() - Rules::SAME_SESSION - Rules::BOUNDED_ADOPTION)
    }

    /// Begins and ends a session in which nothing is written, after the image was changed with its
    /// tuples as they are: from then on the sidecar is of the image as it is now.
    pub fn close_again(&mut self) -> Result<(), LoadError> {
        self.reopen(Rules::all()).map(drop)
    }

    fn reopen(&mut self, rules: Rules) -> Result<Option<Recovery>, LoadError> {
        let mut opened = sidecar::open(&self.media, IntentMode::Region, RECOVERY_CACHE_SIZE, rules)?;
        sidecar::close(&mut opened.journal, &self.media)?;
        self.loaded = Loaded::from(&self.media)?;
        Ok(opened.recovered)
    }

    /// Makes adopted tuples like any other, durably, and gives the interval of each to `visit`
    /// first. Only for a sidecar that is closed.
    pub fn accept_adopted(&self, mut visit: impl FnMut(u64)) -> io::Result<()> {
        let (layout, profile) = (self.layout(), self.profile());
        let mut next = 0;
        while let Some(interval) = self.next_written(next)?.filter(|&it| it < layout.intervals()) {
            let mut page = self.read_page(layout.page_of(interval))?;
            let intervals = layout.intervals_of(page.page);
            next = intervals.end;
            let mut changes = false;
            for (interval, tuple) in intervals.zip(page.tuples.chunks_exact_mut(profile.tuple_size())) {
                if sidecar::accept(profile, tuple) {
                    visit(interval);
                    changes = true;
                }
            }
            if changes {
                page.write(layout, &self.media)?;
            }
        }
        self.media.sidecar().sync_data()
    }

    /// Extends the file for the larger image of `grown`, this sidecar's superblock after
    /// [growth](Superblock::grown_to). All new blocks are unwritten, whatever a run that was cut
    /// off may have left there.
    pub fn make_room(mut self, grown: Superblock) -> io::Result<GrowingSidecar> {
        let (old, new) = (self.layout(), grown.layout());
        let file = self.media.sidecar();
        file.set_len(old.sidecar_size())?;
        file.set_len(new.sidecar_size())?;
        write_zeros(file, new.map_offset() + old.map_used(), new.map_used() - old.map_used())?;
        // the last page of the array may have room for more tuples
        let rest = old.intervals()..new.intervals_of(old.pages() - 1).end;
        sidecar::change_tuples(new, &self.media, &rest, Change::Unwritten)?;
        let loaded = self.loaded.clone();
        self.loaded.superblock = grown;
        Ok(GrowingSidecar { sidecar: self, loaded })
    }

    /// Refuses an image of which the end is gone.
    pub(crate) fn refuse_truncated(&self, image: &Image) -> Result<(), ImageError> {
        let covered = self.layout().image_size();
        if covered <= image.size() {
            return Ok(());
        }
        Err(ImageError::TruncatedImage {
            image: image.path().to_owned(),
            sidecar: self.path.clone(),
            covered,
            size: image.size(),
        })
    }

    /// Refuses a sidecar that misses writes to the image. Inspection gets a warning.
    fn refuse_stale(&self, image: &Image, access: Access) -> Result<(), ImageError> {
        if !image.stale_sidecars()?.contains(&Uuid::from_bytes(self.superblock().uuid())) {
            return Ok(());
        }
        let stale = ImageError::StaleSidecar { sidecar: self.path.clone(), image: image.path().to_owned() };
        if access == Access::Inspect {
            warn!("{stale}");
            return Ok(());
        }
        Err(stale)
    }

    fn refuse_wrong_uuid(&self, image: &Image) -> Result<(), ImageError> {
        let actual = Uuid::from_bytes(self.superblock().uuid());
        match image.uuids()?.as_slice() {
            known if known.contains(&actual) => Ok(()),
            &[expected, ..] => Err(ImageError::ForeignSidecar {
                sidecar: self.path.clone(),
                image: image.path().to_owned(),
                expected,
                actual,
                found: Trace::of(image, &self.path)?.and_then(|trace| trace.found().map(ToOwned::to_owned)),
            }),
            [] => {
                let (image, sidecar) = (image.path().display(), self.path.display());
                warn!("{image} carries no UUID: that {sidecar} belongs to it is judged by its size alone");
                Ok(())
            }
        }
    }
}

impl GrowingSidecar {
    /// The sidecar as it will be, to write the tuples of new blocks.
    #[must_use]
    pub fn sidecar(&self) -> &SidecarFile {
        &self.sidecar
    }

    /// Makes the new size that of the sidecar, at once and durably.
    pub fn commit(mut self) -> io::Result<()> {
        let media = &self.sidecar.media;
        // length, map and tuples before the superblock that counts on them
        media.sidecar().sync_all()?;
        self.loaded.replace(media, self.sidecar.loaded.superblock)?;
        // and the second copy
        media.sidecar().sync_data()
    }
}

/// For `map_err`: a failure to do `action` to the sidecar at `path`.
pub(crate) fn load_error(action: &'static str, path: &Path) -> impl FnOnce(LoadError) -> ImageError {
    move |error| match error {
        LoadError::Superblock(reason) => ImageError::BadSidecar { path: path.to_owned(), reason },
        LoadError::TwoMoments(reason) => ImageError::TwoMoments { sidecar: path.to_owned(), reason },
        LoadError::Io(error) => ImageError::io(action, path)(error),
    }
}

fn write_zeros(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let part = usize::try_from(end - at).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        file.write_all_at(&ZEROS[..part], at)?;
        at += part as u64;
    }
    Ok(())
}

fn open_file(path: &Path, image: &Image, access: Access) -> Result<File, ImageError> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let trace = Trace::of(image, path)?.map(Box::new);
            let (image, sidecar) = (image.path().to_owned(), path.to_owned());
            return Err(ImageError::NoSidecar { image, sidecar, trace });
        }
        metadata => {
            let metadata = metadata.map_err(ImageError::io("look at", path))?;
            image::refuse_other_kinds(path, metadata.file_type(), false)?;
        }
    }
    access.open_options().open(path).map_err(ImageError::io(access.verb(), path))
}
