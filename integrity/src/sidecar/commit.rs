//! A batch of dirty bits and pages of the log on their way to the medium.

use std::collections::BTreeSet;
use std::io;

use super::dirty_map::MapPage;
use super::log::LogPage;
use super::media::{File, Media, Reason};

/// The writes that are made durable at once, for all changes that wait for it.
#[derive(Debug)]
pub struct Commit {
    pub(super) attempt: u64,
    pub(super) map: Vec<MapPage>,
    /// Pages of the log, with their offsets.
    pub(super) pages: Vec<(u64, LogPage)>,
    /// The last of the pages.
    pub(super) through: u64,
    /// Regions that become dirty.
    pub(super) regions: BTreeSet<u64>,
}

impl Commit {
    /// Writes it all, and makes it durable. Bits that are only taken away need not be durable.
    ///
    /// Pages that lie side by side, as those of most flushes do, are made durable without a sync of
    /// the whole sidecar: that would also wait for the tuples that a checkpoint has written.
    pub fn run(&self, media: &impl Media) -> io::Result<()> {
        let map = self.map.iter().map(|(offset, page)| (*offset, &page[..]));
        let pages = self.pages.iter().map(|(offset, page)| (*offset, &page[..]));
        let durable: Vec<_> = if self.regions.is_empty() {
            map.into_iter().try_for_each(|(offset, page)| media.write(offset, page))?;
            pages.collect()
        } else {
            map.chain(pages).collect()
        };
        match durable[..] {
            [] if self.regions.is_empty() => Ok(()),
            [(offset, _), ..] if are_side_by_side(&durable) => {
                let parts: Vec<_> = durable.iter().map(|(_, page)| *page).collect();
                media.write_durably(offset, &parts, Reason::Commit)
            }
            _ => {
                durable.iter().try_for_each(|(offset, page)| media.write(*offset, page))?;
                media.sync(File::Sidecar, Reason::Commit)
            }
        }
    }
}

/// Whether each page begins where the one before it ends.
fn are_side_by_side(pages: &[(u64, &[u8])]) -> bool {
    pages.windows(2).all(|pair| pair[0].0 + pair[0].1.len() as u64 == pair[1].0)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::sidecar::layout::PAGE_SIZE;

    /// The calls, each with its place.
    #[derive(Default)]
    struct Calls(RefCell<Vec<String>>);

    impl Calls {
        fn add(&self, call: String) {
            self.0.borrow_mut().push(call);
        }
    }

    impl Media for Calls {
        fn read(&self, _: File, _: u64, _: &mut [u8]) -> io::Result<()> {
            unreachable!("a commit reads nothing")
        }

        fn write(&self, offset: u64, _: &[u8]) -> io::Result<()> {
            self.add(format!("write {}", offset / PAGE_SIZE as u64));
            Ok(())
        }

        fn write_durably(&self, offset: u64, parts: &[&[u8]], _: Reason) -> io::Result<()> {
            self.add(format!("durably {} pages {}", offset / PAGE_SIZE as u64, parts.len()));
            Ok(())
        }

        fn zero(&self, _: u64, _: u64) -> io::Result<()> {
            unreachable!("a commit zeros nothing")
        }

        fn sync(&self, file: File, _: Reason) -> io::Result<()> {
            self.add(format!("sync {file:?}"));
            Ok(())
        }
    }

    /// The calls for pages at these places.
    fn calls(map: &[u64], pages: &[u64], regions: &[u64]) -> Vec<String> {
        let pages_at = |places: &[u64]| {
            places.iter().map(|at| (at * PAGE_SIZE as u64, Box::new([0; PAGE_SIZE]))).collect()
        };
        let regions = regions.iter().copied().collect();
        let commit = Commit { attempt: 1, map: pages_at(map), pages: pages_at(pages), through: 1, regions };
        let media = Calls::default();
        commit.run(&media).unwrap();
        media.0.into_inner()
    }

    #[test]
    fn pages_side_by_side_are_one_durable_write() {
        assert_eq!(calls(&[], &[70], &[]), ["durably 70 pages 1"]);
        assert_eq!(calls(&[], &[70, 71, 72], &[]), ["durably 70 pages 3"]);
        assert_eq!(calls(&[2], &[], &[5]), ["durably 2 pages 1"]);
    }

    #[test]
    fn pages_apart_are_synced_together() {
        let (at_the_end, with_a_mark) = (calls(&[], &[99, 40], &[]), calls(&[2], &[70], &[5]));
        assert_eq!(at_the_end, ["write 99", "write 40", "sync Sidecar"]);
        assert_eq!(with_a_mark, ["write 2", "write 70", "sync Sidecar"]);
    }

    #[test]
    fn bits_that_are_taken_away_are_not_synced() {
        assert_eq!(calls(&[2], &[], &[]), ["write 2"]);
        assert_eq!(calls(&[2], &[70], &[]), ["write 2", "durably 70 pages 1"]);
    }
}
