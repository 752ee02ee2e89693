//! The cost of discards of a large sparse image, by the calls to the medium: it follows their
//! number, not their size.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use stableblk_integrity::sidecar::{
    self, Change, File, Intent, IntentMode, Journal, Media, PAGE_SIZE, Permission, Reason, Rules, Superblock,
};
use stableblk_integrity::{Guard, IntegrityProfile, PiType};

const IMAGE_SIZE: u64 = 256 << 30;
const PIECES: u64 = 1000;

/// An image without data, and a sidecar of which the pages are kept that are not zero.
#[derive(Default)]
struct Sparse {
    sidecar: RefCell<BTreeMap<u64, Box<[u8; PAGE_SIZE]>>>,
    /// Where the tuple array begins.
    array: u64,
    reads: Cell<u64>,
    writes: Cell<u64>,
    holes: Cell<u64>,
    syncs: Cell<u64>,
}

impl Sparse {
    fn new() -> Self {
        let profile = IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 4096).unwrap();
        let superblock = Superblock::new([7; 16], profile, IMAGE_SIZE).unwrap();
        let sparse = Self { array: superblock.layout().array_offset(), ..Self::default() };
        superblock.create(&sparse).unwrap();
        sparse
    }

    fn open(&self) -> sidecar::Opened {
        sidecar::open(self, IntentMode::Region, 8 << 20, Rules::all()).unwrap()
    }

    /// Calls for the tuple array: reads, writes and holes.
    fn take_calls(&self) -> [u64; 3] {
        [self.reads.take(), self.writes.take(), self.holes.take()]
    }
}

fn count(calls: &Cell<u64>) {
    calls.set(calls.get() + 1);
}

impl Media for Sparse {
    fn read(&self, file: File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        assert_eq!(file, File::Sidecar, "the image is not read");
        if offset >= self.array {
            count(&self.reads);
        }
        let sidecar = self.sidecar.borrow();
        for (at, bytes) in (offset..).step_by(512).zip(buffer.chunks_exact_mut(512)) {
            let within = usize::try_from(at % PAGE_SIZE as u64).unwrap();
            let page = sidecar.get(&(at / PAGE_SIZE as u64));
            match page {
                Some(page) => bytes.copy_from_slice(&page[within..within + 512]),
                None => bytes.fill(0),
            }
        }
        Ok(())
    }

    fn next_data(&self, _: u64) -> io::Result<Option<u64>> {
        Ok(None)
    }

    fn next_sidecar_data(&self, offset: u64) -> io::Result<Option<u64>> {
        let sidecar = self.sidecar.borrow();
        let next = sidecar.range(offset / PAGE_SIZE as u64..).next();
        Ok(next.map(|(page, _)| (page * PAGE_SIZE as u64).max(offset)))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset >= self.array {
            count(&self.writes);
        }
        assert!(offset.is_multiple_of(PAGE_SIZE as u64));
        for (page, bytes) in (offset / PAGE_SIZE as u64..).zip(bytes.as_chunks::<PAGE_SIZE>().0) {
            self.sidecar.borrow_mut().insert(page, Box::new(*bytes));
        }
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        count(&self.holes);
        let pages = offset / PAGE_SIZE as u64..(offset + len) / PAGE_SIZE as u64;
        self.sidecar.borrow_mut().retain(|page, _| !pages.contains(page));
        Ok(())
    }

    fn sync(&self, _: File, _: Reason) -> io::Result<()> {
        count(&self.syncs);
        Ok(())
    }
}

fn commit(journal: &mut Journal, media: &Sparse) {
    if let Some(commit) = journal.begin_commit() {
        let result = commit.run(media);
        journal.end_commit(commit, &result);
    }
}

fn checkpoint(journal: &mut Journal, media: &Sparse) {
    journal.want_checkpoint();
    while journal.has_work() {
        commit(journal, media);
        if let Some(sync) = journal.begin_data_sync() {
            journal.end_data_sync(&sync, &Ok(()));
        }
        if let Some(mut checkpoint) = journal.begin_checkpoint() {
            while !checkpoint.step(media).unwrap() {}
            journal.end_checkpoint(checkpoint, &Ok(()));
        }
    }
}

/// The intervals of all pieces. Hardly any begins where a page of the array does.
fn pieces() -> impl Iterator<Item = Range<u64>> {
    let intervals = IMAGE_SIZE / 4096;
    (0..PIECES).map(move |piece| piece * intervals / PIECES..(piece + 1) * intervals / PIECES)
}

/// Discards all of the image, and leaves the records in the log.
fn discard_all(journal: &mut Journal, media: &Sparse) {
    for piece in pieces() {
        let mut intent = Intent::new(piece);
        while journal.intend(&mut intent, Change::Unwritten).unwrap() == Permission::Later {
            commit(journal, media);
        }
        journal.complete(&intent, Change::Unwritten);
    }
}

#[test]
fn a_checkpoint_of_discards_costs_as_much_as_their_pieces() {
    let media = Sparse::new();
    let mut journal = media.open().journal;
    media.take_calls();
    discard_all(&mut journal, &media);
    checkpoint(&mut journal, &media);
    let [reads, writes, holes] = media.take_calls();
    assert!(reads + writes + holes < 4, "{reads} reads, {writes} writes, {holes} holes");
    let mut tuples = [1; 16];
    assert!(journal.tuples(&(77..78), &mut tuples).is_err(), "the array has it");
    sidecar::close(&mut journal, &media).unwrap();
}

#[test]
fn recovery_after_discards_costs_as_much_as_their_pieces() {
    let media = Sparse::new();
    let mut journal = media.open().journal;
    discard_all(&mut journal, &media);
    drop(journal);
    media.take_calls();
    let found = media.open().recovered.unwrap();
    let [reads, writes, holes] = media.take_calls();
    assert!(found.log_pages > 0 && found.dirty_regions == IMAGE_SIZE >> 20);
    assert_eq!((found.judged_blocks, found.changed_tuples), (IMAGE_SIZE / 4096, 0));
    let calls = reads + writes + holes;
    assert!(calls < PIECES * 4, "{reads} reads, {writes} writes, {holes} holes");
    assert!(found.looked_up_records < PIECES * 500, "{} records", found.looked_up_records);
}
