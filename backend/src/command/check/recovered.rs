//! The tuples of an image whose writer was cut off, as recovery leaves them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use integrity::sidecar::{Layout, LoadError, RecoveredPages, Recovery, Rules, TuplePage, TwoMoments};

use crate::storage::sidecar_file::SidecarFile;

/// The result of recovery, done or only computed.
#[derive(Debug, Default)]
pub(in crate::command) struct Recovered {
    recovery: Option<Recovery>,
    refusal: Option<TwoMoments>,
    /// Whether recovery was done, and not only computed.
    done: bool,
    /// The pages of the tuple array that recovery would change, as it would leave them.
    pages: BTreeMap<u64, TuplePage>,
    /// Pages of which recovery would make all tuples unwritten, in order.
    unwritten: Vec<Range<u64>>,
}

impl Recovered {
    /// Recovers the sidecar if it needs recovery. A sidecar that is refused is not changed.
    pub(in crate::command) fn now(sidecar: &mut SidecarFile) -> Result<Self, LoadError> {
        match sidecar.recover() {
            Err(LoadError::TwoMoments(_)) => Self::dry_run(sidecar),
            recovery => Ok(Self { recovery: recovery?, done: true, ..Self::default() }),
        }
    }

    /// Computes what recovery would do, and writes nothing.
    pub(in crate::command) fn dry_run(sidecar: &SidecarFile) -> Result<Self, LoadError> {
        let (media, superblock) = (sidecar.media(), sidecar.superblock());
        let mut found = Self::default();
        if sidecar.needs_recovery() {
            let (pages, unwritten) = (&mut found.pages, &mut found.unwritten);
            found.recovery = Some(Recovery::run(media, superblock, Rules::all(), |recovered| {
                match recovered {
                    RecoveredPages::One(page, true) => drop(pages.insert(page.page, page)),
                    RecoveredPages::One(_, false) => {}
                    RecoveredPages::Unwritten(pages) => unwritten.push(pages),
                }
                Ok(())
            })?);
        }
        found.refusal = TwoMoments::find(media, superblock, found.recovery.as_ref(), Rules::all())?;
        Ok(found)
    }

    /// Why serving refuses image and sidecar, if it does.
    pub(in crate::command) fn refusal(&self) -> Option<TwoMoments> {
        self.refusal
    }

    /// The result of recovery, and whether it was done; none for an image that was closed cleanly.
    pub(in crate::command) fn outcome(&self) -> Option<(&Recovery, bool)> {
        Some((self.recovery.as_ref()?, self.done))
    }

    /// Fills `tuples` with the tuples of interval `first` and the following.
    pub(in crate::command) fn read_tuples(
        &self,
        sidecar: &SidecarFile,
        first: u64,
        tuples: &mut [u8],
    ) -> io::Result<()> {
        let layout = sidecar.layout();
        let count = (tuples.len() / sidecar.profile().tuple_size()) as u64;
        let mut rest = tuples;
        for part in layout.parts(&(first..first + count)) {
            let number = layout.page_of(part.start);
            if self.is_unwritten(number) {
                let (these, others) = rest.split_at_mut(sidecar.profile().tuple_size() * count_of(&part));
                these.fill(0);
                rest = others;
                continue;
            }
            let page = match self.pages.get(&number) {
                Some(page) => Cow::Borrowed(page),
                None => Cow::Owned(sidecar.read_page(number)?),
            };
            let from = page.range(layout, &part);
            let (these, others) = rest.split_at_mut(from.len());
            these.copy_from_slice(&page.tuples[from]);
            rest = others;
        }
        Ok(())
    }

    fn is_unwritten(&self, page: u64) -> bool {
        let next = self.unwritten.partition_point(|pages| pages.end <= page);
        self.unwritten.get(next).is_some_and(|pages| pages.contains(&page))
    }

    /// The first interval at or after `interval` whose tuple recovery would still change, to
    /// another than an unwritten one.
    pub(in crate::command) fn next_changed(&self, layout: &Layout, interval: u64) -> Option<u64> {
        let (&page, _) = self.pages.range(layout.page_of(interval)..).next()?;
        Some(layout.intervals_of(page).start.max(interval))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "intervals whose tuples are in memory")]
fn count_of(intervals: &Range<u64>) -> usize {
    (intervals.end - intervals.start) as usize
}
