//! A raw image and the sidecar that holds its tuples.
//!
//! A change of blocks asks the tag intent log for leave, then writes the data, and then the log knows its tuples. A read fetches the
//! data and gets the tuples from the log. The range lock keeps others away from the intervals in between. A flush makes the
//! image durable, and the log as far as it promises.
//!
//! ```text
//! write  submit -> intend ~log~ -> data ~ring~ -> complete
//! read   submit -> data ~ring~ -> tuples
//! flush  submit -> begin_flush -> sync of the image ~ring~ -> is_flushed ~log~
//! ```

mod doubt;
mod tag_log;
mod written_since;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use self::doubt::tuples_of_what_is_there;
use self::tag_log::{Asker, TagLog};
use crate::device::bounce::Arena;
use crate::device::growth_error::GrowthError;
use crate::device::operation::{DeviceOperation, TransferDirection};
use crate::device::plain::first_step;
use crate::device::uring::{self, Ring, RingEvent, Step};
use crate::device::{BlockDevice, Capacity, DeviceInfo, DeviceQueue, Event, EventSources, Protection};
use crate::storage::image::{Image, next_data};
use crate::storage::sidecar_file::SidecarFile;
use crate::storage::size::StorageSize;
use integrity::sidecar::{
    self, Change, Flush, Growth, Intent, IntentMode, Journal, Layout, LoadError, Opened, Permission,
    Recovery, Rules, TwoMoments,
};

/// A raw image protected by a sidecar.
#[derive(Debug)]
pub struct SidecarDevice {
    image: Image,
    protection: Protection,
    info: DeviceInfo,
    log: Arc<TagLog>,
    /// None for an image that is only read.
    log_thread: Mutex<Option<JoinHandle<()>>>,
    cache_bytes: usize,
    /// What was made ready.
    growth: Mutex<Option<Growth>>,
    /// Nothing is to be made ready any more.
    growth_interrupted: AtomicBool,
}

impl SidecarDevice {
    /// Serves `image` with the tuples of `sidecar`, which was opened for writing for it: recovers it first where it was not closed.
    /// Keeps `cache_bytes` of the tuple array in memory.
    pub fn open(
        image: Image,
        sidecar: SidecarFile,
        mode: IntentMode,
        cache_bytes: usize,
    ) -> Result<Self, LoadError> {
        written_since::look(&sidecar);
        let Opened { journal, recovered, damaged: _, durability_lost } =
            sidecar::open(sidecar.media(), mode, cache_bytes, Rules::all())?;
        if let Some(recovery) = recovered {
            report(&recovery);
        }
        let device = Self::new(image, sidecar, journal, cache_bytes);
        if durability_lost {
            let log = Arc::downgrade(&device.log);
            device.info.durability.owe(move || {
                if let Some(log) = log.upgrade() {
                    log.loss_was_told();
                }
            });
        }
        *device.thread() = Some(device.log.start()?);
        Ok(device)
    }

    /// The same for reading only: what recovery would change is changed in memory.
    pub fn view(image: Image, sidecar: SidecarFile, cache_bytes: usize) -> Result<Self, LoadError> {
        written_since::look(&sidecar);
        let mut pages = Vec::new();
        let mut recovered = None;
        if sidecar.needs_recovery() {
            let recovery =
                Recovery::run(sidecar.media(), sidecar.superblock(), Rules::all(), |page, changes| {
                    if changes {
                        pages.push(page);
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
        Ok(Self::new(image, sidecar, journal, cache_bytes))
    }

    /// What the device will be, of an image that another process still serves. Not to be served itself.
    pub fn preview(image: Image, sidecar: SidecarFile, cache_bytes: usize) -> Self {
        let journal = Journal::view(sidecar.loaded().clone(), cache_bytes, Vec::new());
        Self::new(image, sidecar, journal, cache_bytes)
    }

    fn new(image: Image, sidecar: SidecarFile, journal: Journal, cache_bytes: usize) -> Self {
        let protection = Protection::sidecar(*sidecar.profile());
        let info = DeviceInfo {
            capacity: Capacity::new(journal.layout().image_size()),
            zeroing_max: zeroing_max(journal.layout(), cache_bytes),
            ..DeviceInfo::of_image(&image, Some(protection))
        };
        let log = TagLog::new(sidecar.into_media(), journal);
        let (log_thread, growth) = (Mutex::new(None), Mutex::new(None));
        Self {
            image,
            protection,
            info,
            log,
            log_thread,
            cache_bytes,
            growth,
            growth_interrupted: AtomicBool::new(false),
        }
    }

    fn thread(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.log_thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The intervals of bytes `offset..offset + len`, which are whole granules.
    fn intervals(&self, offset: u64, len: u64) -> Range<u64> {
        self.protection.interval(offset)..self.protection.interval(offset + len)
    }

    /// What an operation changes.
    fn change<'a>(&self, operation: &'a DeviceOperation) -> Change<'a> {
        match operation {
            DeviceOperation::Transfer(transfer) => {
                let metadata = transfer.folio().map_or(&[][..], |folio| folio.metadata());
                Change::Written(&metadata[..self.protection.metadata_len(transfer.len())])
            }
            DeviceOperation::Zero { .. } | DeviceOperation::Flush { .. } => Change::Unwritten,
        }
    }

    /// The intervals of a read, and the place for their tuples.
    fn tuples_of<'a>(&self, operation: &'a mut DeviceOperation) -> (Range<u64>, &'a mut [u8]) {
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

/// Bytes that one discard or write zeroes may cover: the tuples of many such have room in memory, and those of one that fails, in
/// the log.
fn zeroing_max(layout: &Layout, cache_bytes: usize) -> u64 {
    let pages = ((cache_bytes / sidecar::PAGE_SIZE / 8).max(1) as u64).min(layout.log_pages() / 8);
    pages * layout.tuples_per_page() as u64 * layout.profile().interval_size() as u64
}

/// Tells what a crash has left.
fn report(recovery: &Recovery) {
    let Recovery { log_pages, dirty_regions, judged_blocks, changed_tuples, adopted_blocks, .. } = recovery;
    tracing::warn!(
        "the image was not closed cleanly: recovered {changed_tuples} tuples ({log_pages} pages of the log, {dirty_regions} dirty \
         regions, {judged_blocks} blocks looked at)"
    );
    if let Some(page) = recovery.log_gap {
        tracing::warn!("page {page} of the log is missing: it was being written, or has been damaged");
    }
    if recovery.rotten_map_sectors > 0 {
        tracing::error!("{} sectors of the dirty map are damaged", recovery.rotten_map_sectors);
    }
    for lost in &recovery.lost {
        tracing::error!(
            "the sidecar's tuples of LBA {} to {} are damaged",
            lost.start,
            lost.end.saturating_sub(1)
        );
    }
    if recovery.unreadable_blocks > 0 {
        tracing::error!("{} blocks in doubt cannot be read", recovery.unreadable_blocks);
    }
    if *adopted_blocks > 0 {
        tracing::warn!(
            "{adopted_blocks} blocks hold no write that was flushed, nor any later one, and were adopted as they are: list them with \
             `stableblk check`, and accept them with `stableblk accept --adopted`"
        );
    }
    for adoption in recovery.adoptions.iter().take(ADOPTIONS_LOGGED) {
        tracing::warn!(lba = adoption.lba, guard = %format_args!("{:#x}", adoption.guard), candidates = ?adoption.candidates, "adopted");
    }
}

/// Adopted blocks that are logged one by one; `stableblk check` lists all.
const ADOPTIONS_LOGGED: usize = 16;

impl BlockDevice for SidecarDevice {
    type Queue = SidecarQueue;

    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn open_queue(self: &Arc<Self>, arena: &Arena, sources: EventSources<'_>) -> io::Result<SidecarQueue> {
        let ring = Ring::over(&self.image, arena, sources)?;
        let asker = self.log.asker(sources.wake.clone());
        Ok(SidecarQueue {
            device: self.clone(),
            ring,
            asker,
            asking: Vec::new(),
            granted: Vec::new(),
            ask_again: false,
            done: Vec::new(),
            events: VecDeque::new(),
        })
    }

    fn measure(&self) -> io::Result<StorageSize> {
        self.image.storage_size()
    }

    fn prepare_growth(&self, size: u64) -> Result<(), GrowthError> {
        if self.thread().is_none() {
            return Err(GrowthError::ReadOnly);
        }
        let growth = Growth::to(&self.log.lock().journal, size).map_err(GrowthError::Sidecar)?;
        let media = self.log.media().for_another_thread()?;
        // nothing of what another growth, that came to no end, has left there
        let file = media.sidecar();
        file.set_len(growth.old_size())?;
        file.set_len(growth.new_size())?;
        growth.prepare(&media, |offset| {
            if self.growth_interrupted.load(Ordering::Relaxed) {
                return Err(io::Error::other("the disk is handed over"));
            }
            next_data(self.image.file(), offset)
        })?;
        // so that there is less left to do when the queues stand still
        let mut log = self.log.lock();
        log.journal.want_checkpoint();
        self.log.unlock(log);
        *self.growth.lock().unwrap_or_else(PoisonError::into_inner) = Some(growth);
        Ok(())
    }

    fn interrupt_growth(&self) {
        self.growth_interrupted.store(true, Ordering::Relaxed);
    }

    fn grow(&self, size: u64) -> Result<(), GrowthError> {
        let prepared = self.growth.lock().unwrap_or_else(PoisonError::into_inner).take();
        let growth = prepared.ok_or_else(|| io::Error::other("nothing was made ready"))?;
        // first, so that a crash in between leaves what an image has that somebody else made larger
        self.image.extend(size)?;
        self.log.grow(growth, self.cache_bytes)?;
        self.info.capacity.grow(size);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        match self.thread().take() {
            Some(thread) => {
                self.log.stop(thread);
                self.info.durability.settle();
                self.log.close()
            }
            None => Ok(()),
        }
    }
}

/// What the log knows of an operation.
#[derive(Debug)]
enum LogRecord {
    /// Nothing: it changes nothing.
    None,
    Change(Intent),
    Flush(Flush),
}

/// An operation that asks the log for something.
#[derive(Debug)]
enum Asking {
    /// For leave to change blocks.
    Intend(DeviceOperation, Intent),
    /// To begin a flush.
    BeginFlush(DeviceOperation),
    /// Whether a flush is done; the image was synced.
    IsFlushed(DeviceOperation, Flush),
}

/// A worker's access to image and sidecar.
#[derive(Debug)]
pub struct SidecarQueue {
    device: Arc<SidecarDevice>,
    ring: Ring<(Step, LogRecord)>,
    asker: Arc<Asker>,
    asking: Vec<Asking>,
    /// Changes that the log allows, in one batch.
    granted: Vec<(DeviceOperation, Intent)>,
    /// There is reason to ask: something new, or the log's thread has done something.
    ask_again: bool,
    /// What came back from the ring in one batch.
    done: Vec<(DeviceOperation, LogRecord, io::Result<()>)>,
    events: VecDeque<Event>,
}

impl SidecarQueue {
    /// Asks the log once for everyone who asks it something, and hands what it grants to the ring.
    fn ask(&mut self) {
        if !std::mem::take(&mut self.ask_again) {
            return;
        }
        let device = self.device.clone();
        let mut log = device.log.lock();
        let mut in_doubt = Vec::new();
        for asking in std::mem::take(&mut self.asking) {
            if let Some(failed) = self.ask_for(asking, &mut log.journal) {
                in_doubt.push(failed);
            }
        }
        if !self.asking.is_empty() {
            self.asker.ask();
        }
        device.log.unlock(log);
        // not under the log's lock: a file in memory is written here and now
        for (operation, intent) in self.granted.drain(..) {
            let step = first_step(&operation);
            self.ring.submit(operation, (step, LogRecord::Change(intent)));
        }
        self.look_into(in_doubt);
    }

    /// Asks for one. Gives back a change that may have been made in part, and now fails.
    fn ask_for(
        &mut self,
        asking: Asking,
        journal: &mut Journal,
    ) -> Option<(DeviceOperation, Intent, io::Error)> {
        match asking {
            Asking::Intend(operation, mut intent) => {
                match journal.intend(&mut intent, self.device.change(&operation)) {
                    Ok(Permission::Granted) => self.granted.push((operation, intent)),
                    Ok(Permission::Later) => self.asking.push(Asking::Intend(operation, intent)),
                    Err(error) if intent.is_logged() => return Some((operation, intent, error)),
                    Err(error) => self.finish(operation, Err(error)),
                }
            }
            Asking::BeginFlush(operation) => {
                let logged = LogRecord::Flush(journal.begin_flush());
                self.ring.submit(operation, (Step::Sync, logged));
            }
            Asking::IsFlushed(operation, mut flush) => match journal.is_flushed(&mut flush) {
                Ok(false) => self.asking.push(Asking::IsFlushed(operation, flush)),
                flushed => self.finish(operation, flushed.map(drop)),
            },
        }
        None
    }

    fn finish(&mut self, operation: DeviceOperation, result: io::Result<()>) {
        self.events.push_back(Event::Done(operation, result));
    }

    /// Takes what the ring has.
    fn collect(&mut self) {
        while let Some(event) = self.ring.reap() {
            match event {
                RingEvent::Kick => self.events.push_back(Event::Kick),
                RingEvent::Wake => {
                    self.ask_again |= !self.asking.is_empty();
                    self.events.push_back(Event::Wake);
                }
                RingEvent::Done(operation, (_, logged), result) => {
                    self.done.push((operation, logged, result));
                }
            }
        }
        self.account();
    }

    /// Tells the log of what came back, in one go.
    fn account(&mut self) {
        if self.done.is_empty() {
            return;
        }
        let device = &*self.device;
        let (mut fetching, mut in_doubt) = (Vec::new(), Vec::new());
        let mut log = device.log.lock();
        for (mut operation, logged, result) in self.done.drain(..) {
            match (logged, result) {
                (LogRecord::Change(intent), Ok(())) => {
                    log.journal.complete(&intent, device.change(&operation));
                    self.events.push_back(Event::Done(operation, Ok(())));
                }
                (LogRecord::Change(intent), Err(error)) => in_doubt.push((operation, intent, error)),
                (LogRecord::Flush(flush), Ok(())) => {
                    log.journal.image_synced(&flush);
                    self.asking.push(Asking::IsFlushed(operation, flush));
                    self.ask_again = true;
                }
                (LogRecord::None, Ok(())) => {
                    if let Err(error) = log.journal.refuse_if_given_up() {
                        self.events.push_back(Event::Done(operation, Err(error)));
                        continue;
                    }
                    let (intervals, tuples) = device.tuples_of(&mut operation);
                    match log.journal.tuples(&intervals, tuples) {
                        Ok(()) => self.events.push_back(Event::Done(operation, Ok(()))),
                        Err(miss) => fetching.push((operation, miss)),
                    }
                }
                (LogRecord::Flush(_), Err(error)) => {
                    // it may not have been the sync that failed, but what was lost before
                    if self.device.info.durability.is_lost() {
                        log.journal.durability_was_lost();
                    }
                    self.events.push_back(Event::Done(operation, Err(error)));
                }
                (LogRecord::None, Err(error)) => {
                    self.events.push_back(Event::Done(operation, Err(error)));
                }
            }
        }
        device.log.unlock(log);
        for (mut operation, miss) in fetching {
            let (intervals, tuples) = device.tuples_of(&mut operation);
            let fetched = device.log.fetch(&miss).and_then(|()| device.log.tuples(&intervals, tuples));
            self.events.push_back(Event::Done(operation, fetched));
        }
        self.look_into(in_doubt);
    }

    /// Finds out what failed changes have left, and tells the log.
    fn look_into(&mut self, in_doubt: Vec<(DeviceOperation, Intent, io::Error)>) {
        for (operation, intent, error) in in_doubt {
            let device = &*self.device;
            let tuples = tuples_of_what_is_there(&device.log, intent.intervals(), device.change(&operation));
            let mut log = device.log.lock();
            log.journal.settle(&intent, Change::Written(&tuples));
            device.log.unlock(log);
            self.finish(operation, Err(error));
        }
    }
}

impl Drop for SidecarQueue {
    /// A queue that was stopped has nothing left. Of one whose worker died, the log must still learn what became of each change that
    /// it has a record of: else its blocks would be read with tuples of another write, and its page of the log would never be freed.
    fn drop(&mut self) {
        let mut back = Vec::new();
        let is_drained = self.ring.drain(uring::DRAIN_LIMIT, |event| {
            // of reads the log knows nothing
            if let RingEvent::Done(
                operation,
                (_, logged @ (LogRecord::Change(_) | LogRecord::Flush(_))),
                result,
            ) = event
            {
                back.push((operation, logged, result));
            }
        });
        if !is_drained {
            return self.device.log.give_up();
        }
        self.done.append(&mut back);
        self.account();
        let asked = std::mem::take(&mut self.asking).into_iter().filter_map(|asking| match asking {
            Asking::Intend(operation, intent) if intent.is_logged() => Some((operation, intent)),
            _ => None,
        });
        // their data was not written
        let unwritten = asked.chain(self.granted.drain(..));
        let in_doubt =
            unwritten.map(|(operation, intent)| (operation, intent, io::ErrorKind::BrokenPipe.into()));
        let in_doubt: Vec<_> = in_doubt.collect();
        self.look_into(in_doubt);
    }
}

impl DeviceQueue for SidecarQueue {
    fn submit(&mut self, operation: DeviceOperation) {
        let intervals = match &operation {
            DeviceOperation::Transfer(transfer) if transfer.direction() == TransferDirection::Read => {
                return self.ring.submit(operation, (Step::Transfer, LogRecord::None));
            }
            DeviceOperation::Transfer(transfer) => {
                self.device.intervals(transfer.offset(), transfer.len() as u64)
            }
            DeviceOperation::Zero { offset, len, .. } => self.device.intervals(*offset, *len),
            DeviceOperation::Flush { .. } => {
                self.ask_again = true;
                return self.asking.push(Asking::BeginFlush(operation));
            }
        };
        self.ask_again = true;
        self.asking.push(Asking::Intend(operation, Intent::new(intervals)));
    }

    fn enter(&mut self, wait: bool) -> io::Result<()> {
        // before the log is locked below: this may lock it
        self.ring.tell();
        self.ask();
        self.ring.enter(wait && self.events.is_empty() && !self.ask_again)
    }

    fn has_work(&mut self) -> bool {
        self.ask_again || !self.events.is_empty() || self.ring.has_work()
    }

    fn reap(&mut self) -> Option<Event> {
        if self.events.is_empty() {
            self.collect();
        }
        self.events.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use integrity::sidecar::Superblock;
    use integrity::{Guard, IntegrityProfile, PiType};
    use tempfile::TempDir;

    use super::*;
    use crate::device::OwnEvents;
    use crate::device::bounce::FolioPool;
    use crate::device::operation::{Piece, Transfer, TransferBuffer};
    use crate::storage::image::{Access, DirectIo};

    const BLOCK: usize = 4096;

    /// A protected disk of 1 MiB in `directory`.
    fn device(directory: &TempDir, mode: IntentMode) -> Arc<SidecarDevice> {
        let (path, sidecar) = (directory.path().join("image"), directory.path().join("sidecar"));
        std::fs::File::create(&path).unwrap().set_len(1 << 20).unwrap();
        let image = Image::open(&path, Access::ReadWrite, DirectIo::Never).unwrap();
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        let superblock = Superblock::new([7; 16], profile, 1 << 20).unwrap();
        let file = std::fs::File::options().read(true).write(true).create_new(true).open(&sidecar).unwrap();
        let created =
            SidecarFile::create(file, &sidecar, image.file().try_clone().unwrap(), &superblock).unwrap();
        drop(created);
        let sidecar = SidecarFile::open(&sidecar, &image, Access::ReadWrite).unwrap();
        Arc::new(SidecarDevice::open(image, sidecar, mode, 1 << 20).unwrap())
    }

    /// One transfer of block 0, its folio filled with `byte` and, for a write, with tuples.
    fn transfer(
        device: &SidecarDevice,
        pool: &mut FolioPool,
        direction: TransferDirection,
        byte: u8,
    ) -> DeviceOperation {
        let mut folio = pool.take(BLOCK, BLOCK).unwrap();
        let (data, metadata) = folio.parts_mut();
        data[..BLOCK].fill(byte);
        device.protection.generate(0, 0..BLOCK, data, metadata).unwrap();
        let piece = Piece { request: 0, data_offset: 0, data_len: BLOCK, lead: 0, merge: false };
        DeviceOperation::Transfer(Transfer::new(direction, 0, BLOCK, TransferBuffer::Bounce(folio), piece))
    }

    fn finish(queue: &mut SidecarQueue) -> DeviceOperation {
        loop {
            queue.enter(true).unwrap();
            while let Some(event) = queue.reap() {
                if let Event::Done(operation, result) = event {
                    result.unwrap();
                    return operation;
                }
            }
        }
    }

    /// A worker that dies drops its queue with everything in flight.
    #[test]
    fn a_queue_that_is_dropped_leaves_no_change_unsettled() {
        for mode in [IntentMode::Region, IntentMode::Block] {
            let directory = tempfile::tempdir().unwrap();
            let device = device(&directory, mode);
            let metadata = device.protection.metadata_per_page();
            let (mut pool, events) = (FolioPool::reserve(metadata).unwrap(), OwnEvents::new().unwrap());
            let open = |pool: &FolioPool| device.open_queue(pool.arena(), events.sources()).unwrap();
            let mut queue = open(&pool);
            queue.submit(transfer(&device, &mut pool, TransferDirection::Write, 1));
            finish(&mut queue);
            queue.submit(transfer(&device, &mut pool, TransferDirection::Write, 2));
            queue.enter(false).unwrap();
            drop(queue);
            let mut queue = open(&pool);
            queue.submit(transfer(&device, &mut pool, TransferDirection::Read, 0));
            let DeviceOperation::Transfer(read) = finish(&mut queue) else { panic!("a read") };
            let (data, tuples) = read.folio().unwrap().parts();
            device.protection.verify(0, 0..BLOCK, data, tuples).unwrap();
            drop(queue);
            device.close().expect("a change is still under way");
        }
    }
}
