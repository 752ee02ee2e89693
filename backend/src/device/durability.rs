//! Whether what is written to a disk can still be made durable.
//!
//! The kernel tells of data that it could not write only once, to one sync of the file. Then it takes that data for written: the next
//! sync succeeds without it. So after a sync has failed none is believed, until the storage is opened anew.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// All clones share it.
#[derive(Debug, Clone, Default)]
pub struct Durability(Arc<AtomicBool>);

impl Durability {
    /// What the `result` of a sync, or a flush, of the storage is worth. To be asked of each.
    pub fn outcome(&self, result: io::Result<()>) -> io::Result<()> {
        match &result {
            Err(error) if !self.0.swap(true, Ordering::SeqCst) => {
                tracing::error!(
                    "a flush has failed: {error}; what was written since the last one may be lost, so flushes fail until a restart"
                );
            }
            Ok(()) if self.is_lost() => return Err(io::Error::from_raw_os_error(libc::EIO)),
            _ => {}
        }
        result
    }

    /// Whether a sync has failed.
    pub fn is_lost(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_one_that_failed_no_sync_is_believed() {
        let (durability, failed) = (Durability::default(), || Err(io::Error::from_raw_os_error(28)));
        assert!(durability.outcome(Ok(())).is_ok());
        assert_eq!(durability.outcome(failed()).unwrap_err().raw_os_error(), Some(28));
        assert_eq!(durability.clone().outcome(Ok(())).unwrap_err().raw_os_error(), Some(libc::EIO));
        assert!(durability.is_lost());
    }
}
