//! An untrusted sidecar, and an image that may have been changed by others: opened, recovered,
//! checked, served for a while, closed and opened again.
//!
//! It begins with what the real code leaves behind when it is killed, which is then forged.

mod forgery;
mod host;
mod medium;
#[path = "../../../tests/served/mod.rs"]
mod served;

use std::ops::Range;

use stableblk_integrity::sidecar::{
    self, APPLICATION_TAG, File, IntentMode, Layout, Loaded, Media, RecoveredPages, Recovery, Rules, State,
    Superblock,
};
use stableblk_integrity::{Guard, IntegrityProfile, PiType};

use self::host::{Fate, Host};
use self::medium::Medium;
use self::served::with_short_log;
use crate::input::Input;

/// Images that are larger are not opened: only time would be found wanting.
const IMAGE_MAX: u64 = 4 << 20;
/// Sequence numbers and the like that are nearer to their end than this may reach it here.
const COUNT_MAX: u64 = (1 << 62) - 1000;

/// Makes files of the input, and serves them.
pub fn run(input: &[u8]) {
    let mut input = Input(input);
    let medium = Medium::default();
    let created = create(&medium, &mut input);
    leave(&medium, &mut input);
    let left = Loaded::from(&medium).map_or(created, |loaded| loaded.superblock);
    while !input.is_empty() {
        forgery::forge(&medium, &left, &mut input);
    }
    let Ok(loaded) = Loaded::from(&medium) else { return };
    let superblock = loaded.superblock;
    if superblock.layout().image_size() <= IMAGE_MAX {
        serve(&medium, &superblock);
    }
}

/// A new sidecar, with a log as short as it may be.
fn create(medium: &Medium, input: &mut Input<'_>) -> Superblock {
    let guard = input.choose([Guard::Crc64Nvme, Guard::Crc16T10Dif, Guard::Crc32c]);
    // one page of the array and more, one region and more; a large image only takes time
    let sizes = [(512, 1), (512, 3), (512, 31), (512, 249), (512, 520), (4096, 2), (4096, 31), (4096, 257)];
    let (interval_size, intervals) = input.choose(sizes);
    let profile = IntegrityProfile::new(guard, PiType::Type1, interval_size).expect("a usual one");
    let superblock = Superblock::new([0xA5; 16], profile, u64::from(interval_size) * intervals);
    let superblock = with_short_log(&superblock.expect("a small image"), None);
    superblock.create(medium).expect("writes do not fail");
    superblock
}

/// Leaves the medium as a session does that is killed, or closed.
fn leave(medium: &Medium, input: &mut Input<'_>) {
    let mode = input.choose([IntentMode::Region, IntentMode::Block]);
    let (mut host, _) = Host::open(medium, mode).expect("a new sidecar");
    let layout = Loaded::from(medium).expect("a new sidecar").superblock.layout().clone();
    let mut is_cut_off = false;
    for _ in 0..input.u8() % 32 {
        let done = match input.u8() % 10 {
            kind @ 0..=4 => {
                let intervals = some_of(&layout, input);
                let data = (kind < 4).then(|| data_of(&layout, &intervals, input.u8()));
                let fate = input.choose([Fate::Done, Fate::Done, Fate::Done, Fate::CutOff, Fate::Failed]);
                is_cut_off |= fate == Fate::CutOff;
                host.change(intervals, data.as_deref(), fate)
            }
            5 => host.flush(),
            6 => host.commit().and_then(|()| host.sync_data()),
            7 => {
                host.want_checkpoint();
                Ok(())
            }
            _ => host.step_checkpoint(),
        };
        done.expect("nothing fails");
    }
    if !is_cut_off && input.u8().is_multiple_of(8) {
        host.close().expect("nothing fails");
    }
}

/// A few neighbouring intervals.
fn some_of(layout: &Layout, input: &mut Input<'_>) -> Range<u64> {
    let first = u64::from(input.u16()) % layout.intervals();
    first..(first + 1 + u64::from(input.u8() % 5)).min(layout.intervals())
}

fn data_of(layout: &Layout, intervals: &Range<u64>, fill: u8) -> Vec<u8> {
    let len = usize::try_from(intervals.end - intervals.start).expect("few");
    vec![fill; len * layout.profile().interval_size()]
}

fn serve(medium: &Medium, superblock: &Superblock) {
    let layout = superblock.layout();
    let foreseen = match superblock.state() {
        State::Clean => None,
        State::Open(_) => foresee(&medium.copy(), superblock),
    };
    let Ok((mut host, recovered)) = Host::open(medium, IntentMode::Region) else { return };
    assert_eq!(recovered, foreseen, "a recovery is not what the check says");
    let before = read_all(&mut host, medium, layout);
    for adoption in recovered.iter().flat_map(|recovery| &recovery.adoptions) {
        let block = &before[usize::try_from(adoption.lba).expect("a small image")];
        let adopted = block.as_ref().is_some_and(|tuple| sidecar::is_adopted(layout.profile(), tuple));
        assert!(adopted, "LBA {} was adopted, and is not good", adoption.lba);
    }
    let end = layout.intervals();
    let written = [0..1, end - 1..end, end / 2..end.min(end / 2 + 3)];
    for (fill, intervals) in (1..).zip(written.clone()) {
        let data = data_of(layout, &intervals, fill);
        let changed = host.change(intervals, Some(&data), Fate::Done).and_then(|()| host.flush());
        if changed.is_err() {
            assert!(!medium.is_readable(File::Sidecar), "a write fails");
            return;
        }
    }
    let served = read_all(&mut host, medium, layout);
    if host.close().is_err() {
        assert!(!medium.is_readable(File::Sidecar), "it cannot be closed");
        return;
    }
    let again = match Host::open(medium, IntentMode::Block) {
        Ok((mut host, recovered)) => {
            assert_eq!(recovered, None, "it was closed");
            read_all(&mut host, medium, layout)
        }
        Err(error) => {
            let counts = [superblock.epoch(), superblock.tail(), superblock.generation()];
            assert!(counts.iter().any(|&count| count > COUNT_MAX), "it cannot be opened again: {error}");
            return;
        }
    };
    for (interval, ((before, served), again)) in (0..).zip(before.iter().zip(&served).zip(&again)) {
        if written.iter().any(|written| written.contains(&interval)) {
            assert!(again.is_some(), "LBA {interval} was written, and is not good");
        } else {
            assert_eq!(before, served, "LBA {interval} was not written");
        }
        assert_eq!(served, again, "LBA {interval} has changed while it was not served");
    }
}

/// The findings of a recovery, without doing it.
fn foresee(medium: &Medium, superblock: &Superblock) -> Option<Recovery> {
    let mut last = 0;
    let recovery = Recovery::run(medium, superblock, Rules::all(), |recovered| {
        let pages = match recovered {
            RecoveredPages::One(page, _) => page.page..page.page + 1,
            RecoveredPages::Unwritten(pages) => pages,
        };
        // so it need not remember where it was
        assert!(last <= pages.start && pages.start < pages.end, "pages {pages:?} come too late");
        last = pages.end;
        Ok(())
    });
    recovery.ok()
}

/// For each interval its tuple, if a read of it finds it good.
fn read_all(host: &mut Host<'_>, medium: &Medium, layout: &Layout) -> Vec<Option<Vec<u8>>> {
    let profile = layout.profile();
    let mut data = vec![0; profile.interval_size()];
    let read = |interval: u64| {
        let tuple = host.tuples(&(interval..interval + 1)).ok()?;
        medium.read(File::Image, interval * profile.interval_size() as u64, &mut data).ok()?;
        sidecar::verify(profile, interval, &data, &tuple).ok()?;
        assert!(is_right(profile, interval, &data, &tuple), "LBA {interval} is called good, and is not");
        Some(tuple)
    };
    (0..layout.intervals()).map(read).collect()
}

/// Whether `tuple` fits `data`, without the code that verifies.
fn is_right(profile: &IntegrityProfile, interval: u64, data: &[u8], tuple: &[u8]) -> bool {
    if tuple.iter().all(|&byte| byte == 0) {
        return data.iter().all(|&byte| byte == 0);
    }
    let tuple = profile.tuple(tuple).expect("one tuple");
    let reference = interval & (u64::MAX >> (64 - profile.reference_tag_size()));
    tuple.guard == profile.guard().compute(data)
        && (tuple.application | 1) == (APPLICATION_TAG | 1)
        && tuple.reference == reference
}
