//! The damage list in the sidecar: read when the sidecar is opened, and written by the log's
//! thread.

use std::io;
use std::time::{Duration, Instant};

use integrity::sidecar::{DamageArea, DamageNotes, Superblock};

use crate::device::Damage;
use crate::metrics::Counter;
use crate::storage::sidecar_media::SidecarMedia;

/// The time between two writes of the list: a guest that reads a damaged block again and again
/// changes it each time.
const PAUSE: Duration = Duration::from_secs(1);

/// The list, its place in the sidecar, and what of it was written.
#[derive(Debug, Default)]
pub(super) struct KeptDamage {
    damage: Damage,
    /// The place in the sidecar; `None` where there is none, or where it is only read.
    area: Option<DamageArea>,
    /// How often the list had changed when it was written.
    written: u64,
    /// When it may be written again.
    due: Option<Instant>,
    failures: Counter,
}

impl KeptDamage {
    /// Reads the list of the sidecar, and hands it to `begin`. One that cannot be read is empty,
    /// and is kept in memory only, as that of a sidecar without room for one.
    pub(super) fn read(
        media: &SidecarMedia,
        superblock: &Superblock,
        is_kept: bool,
        begin: impl FnOnce(DamageNotes) -> Damage,
    ) -> Self {
        let read = DamageArea::read(media, superblock).unwrap_or_else(|error| {
            tracing::error!("cannot read the damage list, which is not kept over a restart: {error}");
            None
        });
        let Some((area, notes, damaged)) = read else {
            return Self { damage: begin(DamageNotes::default()), ..Self::default() };
        };
        if damaged > 0 {
            tracing::warn!("{damaged} sectors of the damage list are damaged, and their entries are lost");
        }
        if notes.list.blocks() > 0 {
            tracing::warn!(
                "{} blocks are in the damage list: `stableblk ctl SOCKET damage` shows them",
                notes.list.blocks()
            );
        }
        let damage = begin(notes);
        // a list of which a part is damaged is written again at once
        let written = if damaged > 0 { u64::MAX } else { damage.changes() };
        Self { damage, area: is_kept.then_some(area), written, ..Self::default() }
    }

    /// The time until the list is to be written; none: it has not changed.
    pub(super) fn rest(&self) -> Option<Duration> {
        self.area.as_ref()?;
        let is_changed = self.damage.changes() != self.written;
        is_changed
            .then(|| self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(Instant::now())))
    }

    /// Writes the list if it is time for that.
    pub(super) fn write_if_due(&mut self, media: &SidecarMedia) {
        if self.rest().is_some_and(|rest| rest.is_zero()) {
            self.write(media);
        }
    }

    /// Writes the list if it has changed.
    pub(super) fn write(&mut self, media: &SidecarMedia) {
        let Some(area) = &mut self.area else {
            return;
        };
        let (notes, changes) = self.damage.snapshot();
        if changes == self.written {
            return;
        }
        // also after a failure: the next change, or the end, tries again
        self.written = changes;
        self.due = Some(Instant::now() + PAUSE);
        if let Err(error) = area.write(media, &notes)
            && self.failures.add_logged()
        {
            report_failure(&error);
        }
    }
}

fn report_failure(error: &io::Error) {
    tracing::error!("cannot write the damage list to the sidecar: {error}; it is kept in memory only");
}
