//! A raw image and its sidecar, opened for serving.

use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use integrity::sidecar::{
    self, Change, Growth, IntentMode, Journal, Layout, LoadError, Opened, RecoveredPages, Recovery, Rules,
    TwoMoments, Verify,
};

use super::kept_damage::KeptDamage;
use super::report::{report, report_unverified};
use super::tag_log::TagLog;
use super::written_since;
use crate::device::operation::DeviceOperation;
use crate::device::{Capacity, DeviceInfo, Protection};
use crate::storage::image::Image;
use crate::storage::sidecar_file::SidecarFile;

/// Regions that are verified before a disk is served: 256 MiB, which are read in less than a
/// second.
const VERIFIED_BEFORE: u64 = 256;

/// How a sidecar is served.
#[derive(Debug, Clone, Copy)]
pub struct SidecarOptions {
    /// The intents that are made durable before a block changes.
    pub mode: IntentMode,
    /// Memory for the tuple array, in bytes.
    pub cache_bytes: usize,
    /// The part of the image, in bytes, that may stay marked as written, so that a crash leaves it
    /// in doubt; `None` for the default.
    pub doubt_limit: Option<u64>,
}

/// A raw image protected by a sidecar.
#[derive(Debug)]
pub struct SidecarDevice {
    pub(super) image: Image,
    pub(super) protection: Protection,
    pub(super) info: DeviceInfo,
    pub(super) log: Arc<TagLog>,
    /// The log's thread; `None` for a device that is not served.
    log_thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) cache_bytes: usize,
    /// Whether image and sidecar are only read.
    pub(super) only_reads: bool,
    /// A growth for which everything was made ready.
    pub(super) growth: Mutex<Option<Growth>>,
    /// Set when no growth is to be made ready any more.
    pub(super) growth_interrupted: AtomicBool,
}

impl SidecarDevice {
    /// Serves `image` with the tuples of `sidecar`, which was opened for writing for it. Where it
    /// was not closed, recovers the sidecar first, but for blocks that the log does not name: if
    /// there are many, those are verified while the disk is served.
    pub fn open(image: Image, sidecar: SidecarFile, options: SidecarOptions) -> Result<Self, LoadError> {
        let SidecarOptions { mode, cache_bytes, doubt_limit } = options;
        written_since::look(&sidecar);
        let verify = Verify::WhileServing { above: VERIFIED_BEFORE };
        let Opened { mut journal, recovered, damaged: _, durability_lost } =
            sidecar::open_and_verify(sidecar.media(), mode, cache_bytes, verify, Rules::all())?;
        if let Some(bytes) = doubt_limit {
            journal.limit_marks(bytes);
        }
        if let Some(recovery) = recovered {
            report(&recovery);
            report_unverified(journal.verification());
        }
        let device = Self::new(image, sidecar, journal, cache_bytes, false);
        if durability_lost {
            let log = Arc::downgrade(&device.log);
            device.info.durability.owe(move || {
                if let Some(log) = log.upgrade() {
                    log.loss_was_reported();
                }
            });
        }
        *device.thread() = Some(device.log.start()?);
        Ok(device)
    }

    /// The same for reading only. Changes by recovery are made in memory alone.
    pub fn view(image: Image, sidecar: SidecarFile, cache_bytes: usize) -> Result<Self, LoadError> {
        written_since::look(&sidecar);
        let mut pages = Vec::new();
        let mut recovered = None;
        if sidecar.needs_recovery() {
            let recovery = Recovery::run(sidecar.media(), sidecar.superblock(), Rules::all(), |recovered| {
                if !matches!(recovered, RecoveredPages::One(_, false)) {
                    pages.push(recovered);
                }
                Ok(())
            })?;
            recovered = Some(recovery);
        }
        let (media, superblock) = (sidecar.media(), sidecar.superblock());
        if let Some(reason) = TwoMoments::find(media, superblock, recovered.as_ref(), Rules::all())? {
            return Err(reason.into());
        }
        recovered.iter().for_each(report);
        let journal = Journal::view(sidecar.loaded().clone(), cache_bytes, pages);
        let device = Self::new(image, sidecar, journal, cache_bytes, true);
        *device.thread() = Some(device.log.start()?);
        Ok(device)
    }

    /// A device that shows what will be served, of an image that another process still serves. It
    /// is not to be served itself.
    pub fn preview(image: Image, sidecar: SidecarFile, cache_bytes: usize) -> Self {
        let journal = Journal::view(sidecar.loaded().clone(), cache_bytes, Vec::new());
        Self::new(image, sidecar, journal, cache_bytes, true)
    }

    fn new(
        image: Image,
        sidecar: SidecarFile,
        journal: Journal,
        cache_bytes: usize,
        only_reads: bool,
    ) -> Self {
        let protection = Protection::sidecar(*sidecar.profile());
        let info = DeviceInfo {
            capacity: Capacity::new(journal.layout().image_size()),
            zeroing_max: zeroing_max(journal.layout()),
            ..DeviceInfo::of_image(&image, Some(protection))
        };
        let superblock = sidecar.superblock().clone();
        let log = TagLog::new(sidecar.into_media(), journal);
        let keeper = Arc::downgrade(&log);
        log.keep(KeptDamage::read(log.media(), &superblock, !only_reads, |notes| {
            info.damage.keep(notes, move || {
                if let Some(log) = keeper.upgrade() {
                    log.damage_has_changed();
                }
            });
            info.damage.clone()
        }));
        let (log_thread, growth) = (Mutex::new(None), Mutex::new(None));
        Self {
            image,
            protection,
            info,
            log,
            log_thread,
            cache_bytes,
            only_reads,
            growth,
            growth_interrupted: AtomicBool::new(false),
        }
    }

    pub(super) fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.log_thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The intervals of bytes `offset..offset + len`, which are whole granules.
    pub(super) fn intervals(&self, offset: u64, len: u64) -> Range<u64> {
        self.protection.interval(offset)..self.protection.interval(offset + len)
    }

    /// The change of tuples that an operation makes.
    pub(super) fn change<'a>(&self, operation: &'a DeviceOperation) -> Change<'a> {
        match operation {
            DeviceOperation::Transfer(transfer) => {
                let metadata = transfer.folio().map_or(&[][..], |folio| folio.metadata());
                Change::Written(&metadata[..self.protection.metadata_len(transfer.len())])
            }
            DeviceOperation::Zero { .. } | DeviceOperation::Flush { .. } => Change::Unwritten,
        }
    }

    /// The intervals of a read, and the place for their tuples.
    pub(super) fn tuples_of<'a>(&self, operation: &'a mut DeviceOperation) -> (Range<u64>, &'a mut [u8]) {
        match operation {
            DeviceOperation::Transfer(transfer) => {
                let len = self.protection.metadata_len(transfer.len());
                let intervals = self.intervals(transfer.offset(), transfer.len() as u64);
                let tuples = transfer.parts_mut().map_or(&mut [][..], |(_, metadata)| metadata);
                (intervals, &mut tuples[..len])
            }
            DeviceOperation::Zero { .. } | DeviceOperation::Flush { .. } => (0..0, &mut []),
        }
    }
}

/// Bytes that one discard or write zeroes may cover. If it fails, the tuples of all of its blocks
/// go to the log, where room for some such requests is kept free.
fn zeroing_max(layout: &Layout) -> u64 {
    let pages = layout.log_pages() / 8;
    pages * layout.tuples_per_page() as u64 * layout.profile().interval_size() as u64
}
