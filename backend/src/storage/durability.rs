//! Whether what is written to a disk can still be made durable.
//!
//! The kernel reports data that it could not write only once, to one sync of the file. Then it
//! takes that data for written: the next sync succeeds without it. So after a sync has failed none
//! is believed, until the storage is opened again.
//!
//! The guest may stay while the storage is opened again, by a restart or a migration. So the loss
//! is written down before the storage is let go of, and the next owner's first flush fails for it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use super::loss_mark::LossMark;

/// All clones share it.
#[derive(Debug, Clone, Default)]
pub struct Durability(Arc<DurabilityState>);

#[derive(Default)]
struct DurabilityState {
    /// A sync has failed.
    lost: AtomicBool,
    /// A sync failed before the storage was opened: a flush is to fail for it.
    owed: AtomicBool,
    /// Where a loss is written down. None where a sidecar does that, or nothing is written.
    mark: Option<LossMark>,
    /// What is done when a flush has failed for a loss.
    when_told: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// The thread that makes the mark or takes it away.
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

/// A sync has failed, and that could not be written down.
#[derive(Debug, thiserror::Error)]
#[error("{sync}; that durability was lost could not be written down for the next owner either, {write}")]
struct UnrecordedLoss {
    sync: io::Error,
    write: io::Error,
}

impl Durability {
    /// That of storage whose losses are written down in `mark`.
    pub fn marked(mark: LossMark) -> Self {
        let owed = AtomicBool::new(mark.is_made());
        Self(Arc::new(DurabilityState { owed, mark: Some(mark), ..DurabilityState::default() }))
    }

    /// What the `result` of a sync of the storage is worth. To be asked of each.
    pub fn outcome(&self, result: io::Result<()>) -> io::Result<()> {
        match &result {
            Err(error) if !self.0.lost.swap(true, Ordering::SeqCst) => {
                // the process may end before it closes the storage
                self.in_background(LossMark::make);
                tracing::error!(
                    "a flush has failed: {error}; what was written since the last one may be lost, so \
                     flushes fail until a restart, and once after it"
                );
            }
            Ok(()) if self.is_lost() => return Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => {}
        }
        result
    }

    /// The same for a flush that somebody has asked for and will see the result of. When it fails,
    /// and that was said, [`Self::was_told`] is called.
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

    /// Lets a flush fail for what was lost before the storage was opened; then `when_told` is
    /// called.
    pub(crate) fn owe(&self, when_told: impl Fn() + Send + Sync + 'static) {
        // only once for each storage that is opened
        let _ = self.0.when_told.set(Box::new(when_told));
        self.0.owed.store(true, Ordering::SeqCst);
    }

    /// A flush has failed, and whoever asked for it has seen that. What was lost before the storage
    /// was opened is settled by it. Does not block.
    pub fn was_told(&self) {
        if !self.0.owed.swap(false, Ordering::SeqCst) {
            return;
        }
        if let Some(when_told) = self.0.when_told.get() {
            when_told();
        }
        if self.0.mark.as_ref().is_some_and(LossMark::is_made) {
            self.in_background(LossMark::remove);
        }
    }

    /// Makes or removes the mark, if there is one, by a thread of its own, after what was begun before.
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

    /// The end of the storage here, of which `synced` is the last sync: a loss is written down.
    /// What it returns is more than `synced` where a sync has failed before, or that could not be
    /// written down.
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

    /// Waits until the mark is changed, if that has begun: the next owner may make one.
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
    fn after_one_that_failed_no_sync_is_believed() {
        let durability = Durability::default();
        assert!(durability.outcome(Ok(())).is_ok());
        assert_eq!(durability.outcome(failed()).unwrap_err().raw_os_error(), Some(28));
        assert_eq!(durability.clone().outcome(Ok(())).unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(durability.is_lost());
    }

    /// The process may be killed before it closes the storage.
    #[test]
    fn a_loss_is_written_down_before_the_storage_is_closed() {
        let file = file();
        let first = opened(&file);
        first.outcome(failed()).unwrap_err();
        first.settle();
        assert!(LossMark::is_on(&file));
        opened(&file).flush_outcome(Ok(())).unwrap_err();
    }

    #[test]
    fn a_loss_is_told_to_the_next_owner_once() {
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
        // until that was seen, all fail
        third.flush_outcome(Ok(())).unwrap_err();
        third.was_told();
        third.flush_outcome(Ok(())).unwrap();
        third.close(Ok(())).unwrap();
        assert!(!LossMark::is_on(&file));
        opened(&file).flush_outcome(Ok(())).unwrap();
    }

    #[test]
    fn a_loss_is_not_forgotten_with_the_one_before() {
        let file = file();
        let first = opened(&file);
        first.close(failed()).unwrap_err();
        let second = opened(&file);
        second.flush_outcome(Ok(())).unwrap_err();
        second.was_told();
        second.close(failed()).unwrap_err();
        assert!(LossMark::is_on(&file));
    }

    #[test]
    fn a_loss_that_cannot_be_written_down_is_said() {
        let durability = opened(&File::open("/proc/self/maps").unwrap());
        let error = durability.close(failed()).unwrap_err().to_string();
        assert!(error.contains("No space left") && error.contains("could not be written down"), "{error}");
    }

    #[test]
    fn a_sidecar_is_told_when_the_guest_was() {
        let (sender, told) = mpsc::channel();
        let durability = Durability::default();
        durability.was_told();
        durability.owe(move || sender.send(()).unwrap());
        durability.flush_outcome(Ok(())).unwrap_err();
        told.try_recv().unwrap_err();
        durability.was_told();
        durability.was_told();
        told.try_recv().unwrap();
        told.try_recv().unwrap_err();
    }
}
