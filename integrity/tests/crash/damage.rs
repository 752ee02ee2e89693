//! The damage list, which is written beside all else and without a sync: whatever a crash leaves
//! of it, it names no block that was not noted, and the rest of the sidecar is as it would be
//! without it.

use std::io;

use stableblk_integrity::sidecar::{
    DamageArea, DamageNotes, FailedCheck, File, Finding, FoundBy, Loaded, Media, PAGE_SIZE, Reason,
};

use crate::recorder::Recorder;
use crate::setup::{Mutant, Setup};
use crate::violation::Violation;

/// The block that is noted.
const NOTED: u64 = 1;

/// Writes a list with the block, or one without. The medium may fail.
pub(crate) fn note(setup: &Setup, media: &Recorder, is_listed: bool) {
    let media = Shifted { media, down: shift(setup) };
    let Ok(loaded) = Loaded::from(&media) else { return };
    let Ok(Some((mut area, _, _))) = DamageArea::read(&media, &loaded.superblock) else { return };
    let mut notes = DamageNotes::default();
    if is_listed {
        let finding = Finding { lba: NOTED, check: FailedCheck::Unreadable, tag: None };
        notes.list.add(&finding, FoundBy::Guest, 7);
    }
    let _ = area.write(&media, &notes);
}

/// The list after a crash.
pub(crate) fn check(media: &Recorder) -> Result<(), Violation> {
    let loaded = Loaded::from(media).map_err(|_| Violation::CannotOpen)?;
    let read = DamageArea::read(media, &loaded.superblock).map_err(|_| Violation::CannotOpen)?;
    let lists_others =
        |notes: DamageNotes| notes.list.ranges().any(|range| range.lbas() != (NOTED..NOTED + 1));
    match read {
        Some((_, notes, _)) if lists_others(notes.clone()) => Err(Violation::MadeUpDamage),
        _ => Ok(()),
    }
}

/// With the mutant, the first page of ranges lies where the dirty map begins.
fn shift(setup: &Setup) -> u64 {
    let layout = setup.layout();
    let area = layout.damage_area().expect("room in the map");
    match setup.mutant {
        Mutant::DamageInMap => area.start + PAGE_SIZE as u64 - layout.map_offset(),
        _ => 0,
    }
}

/// A medium whose damage list lies this many bytes nearer to the beginning.
struct Shifted<'m> {
    media: &'m Recorder,
    down: u64,
}

impl Shifted<'_> {
    fn place(&self, offset: u64) -> u64 {
        // the superblocks stay where they are
        if offset < 2 * PAGE_SIZE as u64 { offset } else { offset - self.down }
    }
}

impl Media for Shifted<'_> {
    fn read(&self, file: File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.media.read(file, self.place(offset), buffer)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.media.write(self.place(offset), bytes)
    }

    fn zero(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn sync(&self, _: File, _: Reason) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
