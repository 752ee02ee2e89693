//! The tuples of an image whose writer was cut off, as recovery leaves them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use integrity::sidecar::{Layout, LoadError, Recovery, Rules, TuplePage, TwoMoments};

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
            let pages = &mut found.pages;
            found.recovery = Some(Recovery::run(media, superblock, Rules::all(), |page, changes| {
                if changes {
                    pages.insert(page.page, page);
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

    /// The first interval at or after `interval` whose tuple recovery would still change.
    pub(in crate::command) fn next_changed(&self, layout: &Layout, interval: u64) -> Option<u64> {
        let (&page, _) = self.pages.range(layout.page_of(interval)..).next()?;
        Some(layout.intervals_of(page).start.max(interval))
    }
}
