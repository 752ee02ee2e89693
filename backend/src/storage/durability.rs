//! Whether data written to a disk can still be made durable.
//!
//! The kernel reports data that it could not write only once, to one sync of the file. Then it
//! takes that data for written: the next sync succeeds without it. So after a sync has failed, all
//! later ones are made to fail, until the storage is opened again.
//!
//! The guest may stay while the storage is opened again, by a restart or a migration. So the loss
//! is recorded before the storage is released, and the next owner's first flush fails for it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use super::loss_mark::LossMark;

/// Whether data written to one storage can still be made durable. All clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Durability(Arc<DurabilityState>);

#[derive(Default)]
struct DurabilityState {
    /// A sync has failed.
    lost: AtomicBool,
    /// A sync failed before the storage was opened: a flush is to fail for it.
    owed: AtomicBool,
    /// Where a loss is recorded. `None` where a sidecar does that, or nothing is written.
    mark: Option<LossMark>,
    /// Called when a flush has failed for an earlier loss.
    when_reported: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// The thread that makes or removes the mark.
    changing: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for DurabilityState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Durability")
            .field("lost", &self.lost)
            .field("owed", &self.owed)
            .finish_non_exhaustive()
    }
}

/// A sync has failed, and that could not be recorded.
#[derive(Debug, thiserror::Error)]
#[error("{sync}; the loss of durability could not be written down for the next owner either: {write}")]
struct UnrecordedLoss {
    sync: io::Error,
    write: io::Error,
}

impl Durability {
    /// The state of storage whose losses are recorded in `mark`.
    pub fn marked(mark: LossMark) -> Self {
        let owed = AtomicBool::new(mark.is_made());
        Self(Arc::new(DurabilityState { owed, mark: Some(mark), ..DurabilityState::default() }))
    }

    /// The `result` of a sync of the storage, or a failure if one has failed before. To be called
    /// for each sync.
    pub fn outcome(&self, result: io::Result<()>) -> io::Result<()> {
        match &result {
            Err(error) if !self.0.lost.swap(true, Ordering::SeqCst) => {
                // the process may end before it closes the storage
                self.in_background(LossMark::make);
                tracing::error!(
                    "a flush has failed: {error}; data written since the last one may be lost, so \
                     flushes fail until a restart, and once after it"
                );
            }
            Ok(()) if self.is_lost() => return Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => {}
        }
        result
    }

    /// The same for a flush whose result the guest or another client will see. When the failure was
    /// passed on to it, [`Self::loss_was_reported`] is to be called.
    pub fn flush_outcome(&self, result: io::Result<()>) -> io::Result<()> {
        self.outcome(result)?;
        if !self.is_owed() {
            return Ok(());
        }
        tracing::error!(
            "a flush fails because durability was lost when the image was served before: what was written \
             before that may be lost, so check the guest's file systems; later flushes do not fail for it"
        );
        Err(io::Error::from_raw_os_error(libc::EIO))
    }

    /// Whether a sync has failed.
    pub fn is_lost(&self) -> bool {
        self.0.lost.load(Ordering::SeqCst)
    }

    /// Whether a flush is to fail for what was lost before the storage was opened.
    pub fn is_owed(&self) -> bool {
        self.0.owed.load(Ordering::SeqCst)
    }

    /// Whether the next flush fails, as far as is known.
    pub fn flushes_fail(&self) -> bool {
        self.is_lost() || self.is_owed()
    }

    /// Lets a flush fail for what was lost before the storage was opened. Then `when_reported` is
    /// called.
    pub(crate) fn owe(&self, when_reported: impl Fn() + Send + Sync + 'static) {
        // only once for each storage that is opened
        let _ = self.0.when_reported.set(Box::new(when_reported));
        self.0.owed.store(true, Ordering::SeqCst);
    }

    /// A flush has failed and its caller has seen that, so later flushes do not fail for what was
    /// lost before the storage was opened. Does not block.
    pub fn loss_was_reported(&self) {
        if !self.0.owed.swap(false, Ordering::SeqCst) {
            return;
        }
        if let Some(when_reported) = self.0.when_reported.get() {
            when_reported();
        }
        if self.0.mark.as_ref().is_some_and(LossMark::is_made) {
            self.in_background(LossMark::remove);
        }
    }

    /// Makes or removes the mark, if there is one, on a thread of its own, after earlier changes.
    fn in_background(&self, change: fn(&LossMark) -> io::Result<()>) {
        if self.0.mark.is_none() {
            return;
        }
        let shared = self.0.clone();
        let mut changing = self.changing();
        let before = changing.take();
        let work = move || {
            if let Some(before) = before {
                // it does not panic
                let _ = before.join();
            }
            if let Some(Err(error)) = shared.mark.as_ref().map(change) {
                tracing::error!("cannot note whether durability was lost: {error}");
            }
        };
        match thread::Builder::new().name("loss mark".to_owned()).spawn(work) {
            Ok(thread) => *changing = Some(thread),
            Err(error) => tracing::error!("cannot note whether durability was lost: {error}"),
        }
    }

    /// Ends the use of the storage: a loss is recorded. `synced` is the result of the last sync.
    /// Fails also where a sync has failed before, and says where that could not be recorded.
    pub fn close(&self, synced: io::Result<()>) -> io::Result<()> {
        let outcome = self.outcome(synced);
        self.settle();
        let Err(sync) = outcome else {
            return Ok(());
        };
        Err(match self.0.mark.as_ref().map(LossMark::make) {
            Some(Err(write)) => io::Error::new(sync.kind(), UnrecordedLoss { sync, write }),
            _ => sync,
        })
    }

    /// Waits until the mark is changed, if that has begun: the next owner may change it too.
    pub(crate) fn settle(&self) {
        let changing = self.changing().take();
        if let Some(thread) = changing {
            // it does not panic
            let _ = thread.join();
        }
    }

    fn changing(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.0.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::mpsc;

    use super::*;

    fn failed() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(28))
    }

    /// A file that has extended attributes.
    fn file() -> File {
        tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap()
    }

    fn opened(file: &File) -> Durability {
        Durability::marked(LossMark::of(file).unwrap())
    }

    #[test]
    fn after_a_failed_sync_every_later_one_fails() {
        let durability = Durability::default();
        assert!(durability.outcome(Ok(())).is_ok());
        assert_eq!(durability.outcome(failed()).unwrap_err().raw_os_error(), Some(28));
        assert_eq!(durability.clone().outcome(Ok(())).unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(durability.is_lost());
    }

    /// The process may be killed before it closes the storage.
    #[test]
    fn a_loss_is_recorded_before_the_storage_is_closed() {
        let file = file();
        let first = opened(&file);
        first.outcome(failed()).unwrap_err();
        first.settle();
        assert!(LossMark::is_on(&file));
        opened(&file).flush_outcome(Ok(())).unwrap_err();
    }

    #[test]
    fn a_loss_fails_flushes_of_the_next_owner_until_one_is_reported() {
        let file = file();
        let first = opened(&file);
        first.outcome(failed()).unwrap_err();
        first.close(Ok(())).unwrap_err();
        assert!(LossMark::is_on(&file));
        // a session without a flush keeps the mark, also if it syncs for itself
        let second = opened(&file);
        second.outcome(Ok(())).unwrap();
        second.close(Ok(())).unwrap();
        let third = opened(&file);
        third.flush_outcome(Ok(())).unwrap_err();
        // all fail until the failure was passed on
        third.flush_outcome(Ok(())).unwrap_err();
        third.loss_was_reported();
        third.flush_outcome(Ok(())).unwrap();
        third.close(Ok(())).unwrap();
        assert!(!LossMark::is_on(&file));
        opened(&file).flush_outcome(Ok(())).unwrap();
    }

    #[test]
    fn a_second_loss_is_recorded_after_the_first_was_reported() {
        let file = file();
        let first = opened(&file);
        first.close(failed()).unwrap_err();
        let second = opened(&file);
        second.flush_outcome(Ok(())).unwrap_err();
        second.loss_was_reported();
        second.close(failed()).unwrap_err();
        assert!(LossMark::is_on(&file));
    }

    #[test]
    fn a_loss_that_cannot_be_recorded_is_part_of_the_error() {
        let durability = opened(&File::open("/proc/self/maps").unwrap());
        let error = durability.close(failed()).unwrap_err().to_string();
        assert!(error.contains("No space left") && error.contains("could not be written down"), "{error}");
    }

    #[test]
    fn a_sidecar_is_notified_after_a_flush_has_failed_for_a_loss() {
        let (sender, reported) = mpsc::channel();
        let durability = Durability::default();
        durability.loss_was_reported();
        durability.owe(move || sender.send(()).unwrap());
        durability.flush_outcome(Ok(())).unwrap_err();
        reported.try_recv().unwrap_err();
        durability.loss_was_reported();
        durability.loss_was_reported();
        reported.try_recv().unwrap();
        reported.try_recv().unwrap_err();
    }
}
