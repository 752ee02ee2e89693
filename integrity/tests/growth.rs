//! A sidecar that grows while it is served: wherever it is cut off, it is that of the old image or
//! of the new one, and all of its tuples are right.

use std::cell::RefCell;
use std::io;
use std::ops::Range;

use stableblk_integrity::sidecar::{
    self, Change, File, Growth, Intent, IntentMode, Journal, Media, Opened, Permission, Reason, Rules,
    Superblock, generate_sparse, read_tuples, verify,
};
use stableblk_integrity::{Guard, IntegrityProfile, PiType};

const INTERVAL: usize = 512;
const TUPLE: usize = 16;
/// Not a whole number of the array's pages, which have 248 tuples each.
const OLD: u64 = 300;
const NEW: u64 = 900;
const CACHE: usize = 1 << 20;

fn profile() -> IntegrityProfile {
    IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 512).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Sync,
}

/// Image and sidecar in memory, and what was done to the sidecar since it was made.
#[derive(Clone, Debug)]
struct Memory {
    image: RefCell<Vec<u8>>,
    sidecar: RefCell<Vec<u8>>,
    steps: RefCell<Vec<Step>>,
    /// This sync is left out.
    without: Option<Reason>,
}

impl Memory {
    /// The same image with another sidecar, of which nothing was done yet.
    fn with_sidecar(&self, sidecar: Vec<u8>) -> Self {
        Self {
            image: self.image.clone(),
            sidecar: RefCell::new(sidecar),
            steps: RefCell::default(),
            without: None,
        }
    }

    fn write_image(&self, interval: u64, fill: u8) {
        let at = usize::try_from(interval).unwrap() * INTERVAL;
        self.image.borrow_mut()[at..at + INTERVAL].fill(fill);
    }

    fn tuples_of(&self, intervals: &Range<u64>) -> Vec<u8> {
        let (start, end) =
            (usize::try_from(intervals.start).unwrap(), usize::try_from(intervals.end).unwrap());
        let mut tuples = vec![0; (end - start) * TUPLE];
        let image = self.image.borrow();
        generate_sparse(&profile(), intervals.start, &image[start * INTERVAL..end * INTERVAL], &mut tuples)
            .unwrap();
        tuples
    }
}

fn range(offset: u64, len: usize) -> Range<usize> {
    let start = usize::try_from(offset).unwrap();
    start..start + len
}

impl Media for Memory {
    fn read(&self, file: File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = match file {
            File::Image => self.image.borrow(),
            File::Sidecar => self.sidecar.borrow(),
        };
        buffer.copy_from_slice(&bytes[range(offset, buffer.len())]);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.sidecar.borrow_mut()[range(offset, bytes.len())].copy_from_slice(bytes);
        self.steps.borrow_mut().push(Step::Write(offset, bytes.to_vec()));
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.write(offset, &vec![0; usize::try_from(len).unwrap()])
    }

    fn sync(&self, file: File, reason: Reason) -> io::Result<()> {
        if file == File::Sidecar && self.without != Some(reason) {
            self.steps.borrow_mut().push(Step::Sync);
        }
        Ok(())
    }
}

/// Does what the log's thread does, until there is nothing to do.
fn work(journal: &mut Journal, media: &Memory) {
    while journal.has_work() {
        if let Some(commit) = journal.begin_commit() {
            let result = commit.run(media);
            journal.end_commit(commit, &result);
        }
        if let Some(sync) = journal.begin_data_sync() {
            journal.end_data_sync(&sync, &Ok(()));
        }
        if let Some(mut checkpoint) = journal.begin_checkpoint() {
            while !checkpoint.step(media).unwrap() {}
            journal.end_checkpoint(checkpoint, &Ok(()));
        }
    }
}

fn write(journal: &mut Journal, media: &Memory, interval: u64, fill: u8) {
    let mut intent = Intent::new(interval..interval + 1);
    media.write_image(interval, fill);
    let tuple = media.tuples_of(&(interval..interval + 1));
    while journal.intend(&mut intent, Change::Written(&tuple)).unwrap() == Permission::Later {
        work(journal, media);
    }
    journal.complete(&intent, Change::Written(&tuple));
}

fn grow(journal: &mut Journal, media: &Memory) -> io::Result<()> {
    let growth = Growth::to(journal, NEW * INTERVAL as u64).unwrap();
    // as a file is cut and extended: zeros in the new part
    let old = usize::try_from(growth.old_size()).unwrap();
    media.sidecar.borrow_mut()[old..].fill(0);
    growth.prepare(media, |offset| Ok((offset < NEW * INTERVAL as u64).then_some(offset)))?;
    sidecar::grow(journal, media, &growth, CACHE)
}

/// A sidecar of [`OLD`] intervals being served, some of them written, beside an image that has
/// something in its new part.
fn served(mode: IntentMode, without: Option<Reason>) -> (Memory, Journal) {
    let superblock = Superblock::new([7; 16], profile(), OLD * INTERVAL as u64).unwrap();
    let grown = superblock.grown_to(NEW * INTERVAL as u64).unwrap();
    let len = usize::try_from(grown.layout().sidecar_size()).unwrap();
    let image = vec![0; usize::try_from(NEW).unwrap() * INTERVAL];
    let (image, sidecar) = (RefCell::new(image), RefCell::new(vec![0; len]));
    let media = Memory { image, sidecar, steps: RefCell::default(), without };
    superblock.create(&media).unwrap();
    // a growth that was cut off has left tuples in the last page: of blocks that hold something
    // else now
    let stale = vec![0xA5; 100 * TUPLE];
    sidecar::change_tuples(grown.layout(), &media, &(OLD..OLD + 100), Change::Written(&stale)).unwrap();
    for (interval, fill) in [(OLD, 1), (OLD + 150, 2), (500, 3), (NEW - 1, 4)] {
        media.write_image(interval, fill);
    }
    let Opened { mut journal, .. } = sidecar::open(&media, mode, CACHE, Rules::all()).unwrap();
    for (interval, fill) in [(0, 10), (OLD - 1, 11), (5, 12)] {
        write(&mut journal, &media, interval, fill);
    }
    (media, journal)
}

/// Opens what a crash has left, and checks every tuple. Returns the number of intervals.
fn reopen(media: &Memory, mode: IntentMode) -> (u64, Journal) {
    let Opened { journal, .. } = sidecar::open(media, mode, CACHE, Rules::all()).unwrap();
    let intervals = journal.layout().intervals();
    let mut tuples = vec![0; usize::try_from(intervals).unwrap() * TUPLE];
    read_tuples(journal.layout(), media, &(0..intervals), &mut tuples).unwrap();
    let image = media.image.borrow();
    verify(&profile(), 0, &image[..tuples.len() / TUPLE * INTERVAL], &tuples).unwrap();
    drop(image);
    (intervals, journal)
}

/// The states that a crash behind the first `count` steps can leave: all of them, or of those since
/// the last sync none, one, or all but one.
fn states(before: &[u8], steps: &[Step], count: usize) -> Vec<Vec<u8>> {
    let apply = |wanted: &dyn Fn(usize) -> bool| {
        let mut sidecar = before.to_vec();
        for (_, step) in steps[..count].iter().enumerate().filter(|(at, _)| wanted(*at)) {
            if let Step::Write(offset, bytes) = step {
                sidecar[range(*offset, bytes.len())].copy_from_slice(bytes);
            }
        }
        sidecar
    };
    let synced = steps[..count].iter().rposition(|step| matches!(step, Step::Sync)).map_or(0, |at| at + 1);
    let mut states = vec![apply(&|_| true), apply(&|at| at < synced)];
    for one in synced..count {
        states.push(apply(&|at| at < synced || at == one));
        states.push(apply(&|at| at != one));
    }
    states
}

/// Cuts a growth off everywhere, and what follows it. Returns how often the old image was left, and
/// the new one.
fn cut_everywhere(mode: IntentMode, without: Option<Reason>) -> [usize; 2] {
    let (media, mut journal) = served(mode, without);
    let before = media.sidecar.borrow().clone();
    media.steps.borrow_mut().clear();
    grow(&mut journal, &media).unwrap();
    assert_eq!(journal.layout().intervals(), NEW);
    let steps = media.steps.borrow().clone();
    let mut left = [0, 0];
    for count in 0..=steps.len() {
        for sidecar in states(&before, &steps, count) {
            let media = media.with_sidecar(sidecar);
            let (intervals, mut journal) = reopen(&media, mode);
            assert!(intervals == OLD || intervals == NEW, "{intervals}");
            left[usize::from(intervals == NEW)] += 1;
            // one that came to no end is done again, whatever it has left
            if intervals == OLD {
                grow(&mut journal, &media).unwrap();
                write(&mut journal, &media, OLD + 2, 9);
                sidecar::close(&mut journal, &media).unwrap();
                assert_eq!(reopen(&media, mode).0, NEW);
            }
        }
    }
    left
}

#[test]
fn a_growth_that_is_cut_off_leaves_the_old_image_or_the_new_one() {
    for mode in [IntentMode::Region, IntentMode::Block] {
        let [old, new] = cut_everywhere(mode, None);
        assert!(old > 20 && new > 2, "{mode:?}: {old} and {new} states");
    }
}

/// The check above sees what it is for.
#[test]
#[should_panic(expected = "called `Result::unwrap()` on an `Err` value")]
fn tuples_that_are_not_durable_before_the_superblock_are_seen() {
    cut_everywhere(IntentMode::Region, Some(Reason::Growth));
}

#[test]
fn what_is_written_after_a_growth_survives_a_crash() {
    for mode in [IntentMode::Region, IntentMode::Block] {
        let (media, mut journal) = served(mode, None);
        grow(&mut journal, &media).unwrap();
        // in the page that old and new tuples share, and in a new one
        for (interval, fill) in [(OLD - 1, 20), (OLD + 1, 21), (NEW - 1, 22)] {
            write(&mut journal, &media, interval, fill);
        }
        work(&mut journal, &media);
        let (intervals, mut again) = reopen(&media.with_sidecar(media.sidecar.borrow().clone()), mode);
        assert_eq!(intervals, NEW);
        // and a second growth of a sidecar that has had one
        assert!(Growth::to(&again, (NEW + 1) * INTERVAL as u64).is_ok());
        assert!(Growth::to(&again, NEW * INTERVAL as u64 + 1).is_err(), "a part of an interval");
        sidecar::close(&mut again, &media.with_sidecar(media.sidecar.borrow().clone())).unwrap();
    }
}
