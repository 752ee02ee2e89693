//! The steps of the log's thread, with changes between them.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::Range;

use stableblk_integrity::sidecar::{
    self, Change, File, Intent, IntentMode, Journal, Loaded, Media, Permission, Reason, Rules, Superblock,
    generate_sparse,
};
use stableblk_integrity::{Guard, IntegrityProfile, PiType};

const INTERVAL: usize = 512;
const INTERVALS: usize = 300;
/// More turns than any work takes.
const TURNS_MAX: usize = 100;

fn profile() -> IntegrityProfile {
    IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, 512).unwrap()
}

/// Image and sidecar in memory.
struct Memory {
    image: RefCell<Vec<u8>>,
    sidecar: RefCell<Vec<u8>>,
    image_syncs_fail: Cell<bool>,
    superblock_syncs_fail: Cell<bool>,
    calls: RefCell<Vec<Call>>,
}

/// A call for the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Call {
    WillRead(Range<u64>),
    Read(Range<u64>),
    Write(Range<u64>),
    WriteBack(Range<u64>),
    Sync(Reason),
}

impl Memory {
    fn new() -> Self {
        let size = INTERVALS * INTERVAL;
        let superblock = Superblock::new([7; 16], profile(), size as u64).unwrap();
        let len = usize::try_from(superblock.layout().sidecar_size()).unwrap();
        let memory = Self {
            image: RefCell::new(vec![0; size]),
            sidecar: RefCell::new(vec![0; len]),
            image_syncs_fail: Cell::new(false),
            superblock_syncs_fail: Cell::new(false),
            calls: RefCell::default(),
        };
        superblock.create(&memory).unwrap();
        memory
    }

    fn tuple_of(&self, interval: u64) -> Vec<u8> {
        let at = usize::try_from(interval).unwrap() * INTERVAL;
        let mut tuple = vec![0; 16];
        generate_sparse(&profile(), interval, &self.image.borrow()[at..at + INTERVAL], &mut tuple).unwrap();
        tuple
    }

    fn write_image(&self, interval: u64, fill: u8) {
        let at = usize::try_from(interval).unwrap() * INTERVAL;
        self.image.borrow_mut()[at..at + INTERVAL].fill(fill);
    }
}

impl Media for Memory {
    fn read(&self, file: File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let bytes = match file {
            File::Image => self.image.borrow(),
            File::Sidecar => {
                self.calls.borrow_mut().push(Call::Read(offset..offset + buffer.len() as u64));
                self.sidecar.borrow()
            }
        };
        let at = usize::try_from(offset).unwrap();
        buffer.copy_from_slice(&bytes[at..at + buffer.len()]);
        Ok(())
    }

    fn will_read(&self, range: Range<u64>) {
        self.calls.borrow_mut().push(Call::WillRead(range));
    }

    fn write_back(&self, range: Range<u64>) -> io::Result<()> {
        self.calls.borrow_mut().push(Call::WriteBack(range));
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.calls.borrow_mut().push(Call::Write(offset..offset + bytes.len() as u64));
        let at = usize::try_from(offset).unwrap();
        self.sidecar.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.write(offset, &vec![0; usize::try_from(len).unwrap()])
    }

    fn sync(&self, file: File, reason: Reason) -> io::Result<()> {
        if file == File::Sidecar {
            self.calls.borrow_mut().push(Call::Sync(reason));
        }
        let fails = match (file, reason) {
            (File::Image, _) => self.image_syncs_fail.get(),
            (File::Sidecar, Reason::Superblock) => self.superblock_syncs_fail.get(),
            (File::Sidecar, _) => false,
        };
        if fails { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }
}

/// Does what the log's thread does, until there is nothing to do.
fn work(journal: &mut Journal, media: &Memory) {
    let mut turns = 0;
    while journal.has_work() {
        turns += 1;
        assert!(turns < TURNS_MAX, "the log's thread finds work for ever");
        if let Some(commit) = journal.begin_commit() {
            let result = commit.run(media);
            journal.end_commit(commit, &result);
        }
        if let Some(sync) = journal.begin_data_sync() {
            let result = sync.run(media);
            journal.end_data_sync(&sync, &result);
        }
        if let Some(mut checkpoint) = journal.begin_checkpoint() {
            let result = loop {
                match checkpoint.step(media) {
                    Ok(false) => {}
                    last => break last.map(drop),
                }
            };
            journal.end_checkpoint(checkpoint, &result);
        }
    }
}

/// An intent for `interval`, granted.
fn granted(journal: &mut Journal, media: &Memory, interval: u64) -> Intent {
    let mut intent = Intent::new(interval..interval + 1);
    let tuple = media.tuple_of(interval);
    while journal.intend(&mut intent, Change::Written(&tuple)).unwrap() == Permission::Later {
        work(journal, media);
    }
    intent
}

#[test]
fn a_write_that_fails_during_a_commit_does_not_keep_the_thread_busy() {
    for mode in [IntentMode::Region, IntentMode::Block] {
        let media = Memory::new();
        let mut journal = sidecar::open(&media, mode, 1 << 20, Rules::all()).unwrap().journal;
        let (first, second) = (granted(&mut journal, &media, 1), granted(&mut journal, &media, 2));
        match mode {
            IntentMode::Region => {
                media.write_image(1, 1);
                journal.complete(&first, Change::Written(&media.tuple_of(1)));
            }
            // the record of a write that was granted is durable; that of one that failed is not
            IntentMode::Block => journal.settle(&first, &media.tuple_of(1)),
        }
        journal.want_checkpoint();
        // the checkpoint waits for a commit, and while that is synced another write fails
        assert!(journal.begin_checkpoint().is_none());
        let commit = journal.begin_commit();
        journal.settle(&second, &media.tuple_of(2));
        if let Some(commit) = commit {
            let result = commit.run(&media);
            journal.end_commit(commit, &result);
        }
        work(&mut journal, &media);
        journal.want_checkpoint();
        work(&mut journal, &media);
        assert!(journal.is_empty(), "{mode:?}");
    }
}

/// The process may be killed before it closes the sidecar.
#[test]
fn a_loss_is_written_down_though_the_log_is_empty() {
    let media = Memory::new();
    let mut journal = sidecar::open(&media, IntentMode::Region, 1 << 20, Rules::all()).unwrap().journal;
    assert!(journal.is_empty());
    media.image_syncs_fail.set(true);
    journal.durability_was_lost();
    work(&mut journal, &media);
    assert!(Loaded::from(&media).unwrap().superblock.durability_lost());
}

/// The superblock without the note may be on the medium although it could not be made durable.
#[test]
fn a_loss_is_written_down_again_when_the_note_of_an_earlier_one_may_be_gone() {
    let media = Memory::new();
    let is_noted = || Loaded::from(&media).unwrap().superblock.durability_lost();
    let mut journal = sidecar::open(&media, IntentMode::Region, 1 << 20, Rules::all()).unwrap().journal;
    media.image_syncs_fail.set(true);
    journal.durability_was_lost();
    work(&mut journal, &media);
    media.image_syncs_fail.set(false);
    assert!(is_noted());
    journal.loss_was_reported();
    media.superblock_syncs_fail.set(true);
    work(&mut journal, &media);
    media.superblock_syncs_fail.set(false);
    assert!(!is_noted());
    media.image_syncs_fail.set(true);
    journal.durability_was_lost();
    work(&mut journal, &media);
    assert!(is_noted());
}

#[test]
fn a_checkpoint_announces_what_it_reads_and_writes_back_before_it_syncs() {
    let media = Memory::new();
    let mut journal = sidecar::open(&media, IntentMode::Region, 1 << 20, Rules::all()).unwrap().journal;
    let array = journal.layout().array_offset();
    for interval in [1, 250, 299] {
        let intent = granted(&mut journal, &media, interval);
        media.write_image(interval, 1);
        journal.complete(&intent, Change::Written(&media.tuple_of(interval)));
    }
    media.calls.take();
    journal.want_checkpoint();
    work(&mut journal, &media);
    let calls = media.calls.take();
    let at = |wanted: &Call| calls.iter().position(|call| call == wanted).unwrap();
    let synced = at(&Call::Sync(Reason::CheckpointTuples));
    let mut pages = 0;
    for call in &calls {
        match call {
            Call::Read(page) if page.start >= array => {
                assert!(at(&Call::WillRead(page.clone())) < at(call), "{calls:?}");
            }
            Call::Write(page) if page.start >= array => {
                let covers = |it: &Call| matches!(it, Call::WriteBack(range) if range.start <= page.start && page.end <= range.end);
                let written_back = calls.iter().rposition(covers).unwrap();
                assert!(at(call) < written_back && written_back < synced, "{calls:?}");
                pages += 1;
            }
            _ => {}
        }
    }
    assert_eq!(pages, 2, "{calls:?}");
}

#[test]
fn a_sync_of_the_image_waits_for_commits_that_changes_wait_for_but_not_for_ever() {
    let media = Memory::new();
    let mut journal = sidecar::open(&media, IntentMode::Block, 1 << 20, Rules::all()).unwrap().journal;
    let (mut due, mut due_while_wanted) = (None, None);
    let mut writes = 0;
    while due_while_wanted.is_none() {
        writes += 1;
        assert!(writes < 1000, "the sync of the image is put off for ever");
        let mut intent = Intent::new(1..2);
        let tuple = media.tuple_of(1);
        // its record is to be durable first
        while journal.intend(&mut intent, Change::Written(&tuple)).unwrap() == Permission::Later {
            due_while_wanted = due_while_wanted.or(journal.begin_data_sync().map(|_| writes));
            let commit = journal.begin_commit().unwrap();
            journal.end_commit(commit, &Ok(()));
        }
        due = due.or(journal.begin_data_sync().map(|_| writes));
        journal.complete(&intent, Change::Written(&tuple));
    }
    assert!(due.is_some() && due < due_while_wanted, "{due:?}, {due_while_wanted:?}");
}
