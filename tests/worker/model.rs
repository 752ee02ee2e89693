//! The possible content of a disk, sector by sector, when requests in flight together may be
//! carried out in either order.
//!
//! Each write leaves a stamp in the sectors that it covers. A read may find the stamp of any write
//! that was made available before the read came back, unless that write was certainly overwritten:
//! another one was made available after it had come back, and came back itself before the read was
//! made available.

use std::ops::Range;

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;
/// The stamp of zeros: never written, discarded or zeroed.
pub(crate) const ZEROS: u64 = 0;

/// A moment, counted in what the driver did and saw.
pub(crate) type Moment = u64;

#[derive(Debug)]
struct Write {
    sectors: Range<u64>,
    stamp: u64,
    available: Moment,
    completed: Moment,
}

/// A disk as a driver may expect it to be.
#[derive(Debug)]
pub(crate) struct ModelDisk {
    /// The stamp of each sector when nothing was in flight last.
    settled: Vec<u64>,
    /// Since then, in the order in which they were made available.
    writes: Vec<Write>,
    now: Moment,
}

impl ModelDisk {
    /// A disk of zeros.
    pub(crate) fn new(sectors: usize) -> Self {
        Self { settled: vec![ZEROS; sectors], writes: Vec::new(), now: 0 }
    }

    /// The driver makes a request available, or sees one come back.
    pub(crate) fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    /// A write is made available. Returns its number, for [`Self::complete_write`].
    pub(crate) fn begin_write(&mut self, sectors: Range<u64>, stamp: u64) -> usize {
        let available = self.tick();
        self.writes.push(Write { sectors, stamp, available, completed: Moment::MAX });
        self.writes.len() - 1
    }

    /// A write has come back.
    pub(crate) fn complete_write(&mut self, number: usize) {
        self.writes[number].completed = self.tick();
    }

    /// Checks what a read from `sector` on returned that was made available at `since` and comes
    /// back now.
    pub(crate) fn check(&mut self, sector: u64, since: Moment, data: &[u8]) -> Result<(), String> {
        self.tick();
        let end = sector + (data.len() / SECTOR) as u64;
        for part in self.parts(sector..end) {
            let allowed = self.allowed(part.start, since);
            let bytes = &data[bytes_of(part.start - sector..part.end - sector)];
            for (number, bytes) in (part.start..).zip(bytes.chunks_exact(SECTOR)) {
                self.check_sector(number, bytes, &allowed)?;
            }
        }
        Ok(())
    }

    /// Checks the media where they may have changed, when nothing is in flight, and takes them for
    /// the truth. Returns the sectors it looked at.
    pub(crate) fn settle(&mut self, media: &[u8]) -> Result<Vec<Range<u64>>, String> {
        let changed: Vec<_> = self.writes.iter().map(|write| write.sectors.clone()).collect();
        let since = self.tick();
        for sectors in &changed {
            self.check(sectors.start, since, &media[bytes_of(sectors.clone())])?;
        }
        self.writes.clear();
        for sectors in &changed {
            for (number, bytes) in sectors.clone().zip(media[bytes_of(sectors.clone())].chunks_exact(SECTOR))
            {
                self.settled[usize::try_from(number).unwrap()] = stamp_of(bytes);
            }
        }
        Ok(changed)
    }

    /// `sectors`, cut where a write begins or ends: all sectors of a part have the same writes.
    fn parts(&self, sectors: Range<u64>) -> Vec<Range<u64>> {
        let borders = self.writes.iter().flat_map(|write| [write.sectors.start, write.sectors.end]);
        let mut borders: Vec<_> = borders.filter(|at| sectors.start < *at && *at < sectors.end).collect();
        borders.extend([sectors.start, sectors.end]);
        borders.sort_unstable();
        borders.dedup();
        borders.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }

    /// The stamps a read may find in `sector`; `None` stands for what had settled.
    fn allowed(&self, sector: u64, since: Moment) -> Vec<Option<u64>> {
        let writes: Vec<_> = self.writes.iter().filter(|write| write.sectors.contains(&sector)).collect();
        let overwritten = |completed: Moment| {
            writes.iter().any(|later| completed < later.available && later.completed < since)
        };
        let settled = (!overwritten(0)).then_some(None);
        let found =
            writes.iter().filter(|write| !overwritten(write.completed)).map(|write| Some(write.stamp));
        settled.into_iter().chain(found).collect()
    }

    fn check_sector(&self, sector: u64, bytes: &[u8], allowed: &[Option<u64>]) -> Result<(), String> {
        let settled = self.settled[usize::try_from(sector).unwrap()];
        let stamp = stamp_of(bytes);
        if !allowed.iter().any(|allowed| allowed.unwrap_or(settled) == stamp) {
            return Err(format!(
                "sector {sector} holds {stamp:#x}, allowed are {allowed:#x?}, settled {settled:#x}"
            ));
        }
        let mut expected = [0; SECTOR];
        fill_sector(&mut expected, sector, stamp);
        if bytes != expected {
            return Err(format!("sector {sector} holds a mixture that starts with {stamp:#x}"));
        }
        Ok(())
    }
}

/// The data of a write with `stamp` from `sector` on. No two sectors and no two stamps have the
/// same bytes.
pub(crate) fn stamped(sector: u64, len: usize, stamp: u64) -> Vec<u8> {
    let mut data = vec![0; len];
    for (number, bytes) in (sector..).zip(data.chunks_exact_mut(SECTOR)) {
        fill_sector(bytes, number, stamp);
    }
    data
}

/// The stamp, then words that depend on it, on the sector and on their own place.
fn fill_sector(bytes: &mut [u8], sector: u64, stamp: u64) {
    if stamp == ZEROS {
        return bytes.fill(0);
    }
    let mut word = stamp.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ sector.wrapping_mul(0xD1B5_4A32_D192_ED03);
    let (words, _) = bytes.as_chunks_mut();
    for place in &mut *words {
        *place = word.to_le_bytes();
        word = word.wrapping_add(0x0101_0101_0101_0101);
    }
    words[0] = stamp.to_le_bytes();
}

fn stamp_of(sector: &[u8]) -> u64 {
    let (words, _) = sector.as_chunks();
    u64::from_le_bytes(words[0])
}

/// The bytes of `sectors`.
pub(crate) fn bytes_of(sectors: Range<u64>) -> Range<usize> {
    let byte = |sector: u64| usize::try_from(sector).unwrap() * SECTOR;
    byte(sectors.start)..byte(sectors.end)
}

#[test]
fn a_read_may_find_what_is_in_flight_but_nothing_that_was_overwritten() {
    let mut model = ModelDisk::new(1);
    let first = model.begin_write(0..1, 1);
    model.complete_write(first);
    let second = model.begin_write(0..1, 2);
    let read = model.tick();
    let finds = |model: &mut ModelDisk, stamp| model.check(0, read, &stamped(0, SECTOR, stamp)).is_ok();
    assert!(!finds(&mut model, ZEROS), "the first write had come back");
    assert!(finds(&mut model, 1));
    assert!(finds(&mut model, 2));
    model.complete_write(second);
    assert!(finds(&mut model, 1), "the second write came back after the read was made available");
    let late = model.tick();
    assert!(model.check(0, late, &stamped(0, SECTOR, 1)).is_err());
    assert!(model.check(0, late, &stamped(0, SECTOR, 2)).is_ok());
}

#[test]
fn writes_in_flight_together_may_come_in_either_order() {
    let mut model = ModelDisk::new(1);
    let (first, second) = (model.begin_write(0..1, 1), model.begin_write(0..1, 2));
    model.complete_write(second);
    model.complete_write(first);
    for stamp in [1, 2] {
        let since = model.tick();
        assert!(model.check(0, since, &stamped(0, SECTOR, stamp)).is_ok());
    }
}

#[test]
fn a_sector_of_two_writes_is_found() {
    let mut model = ModelDisk::new(1);
    model.begin_write(0..1, 1);
    model.begin_write(0..1, 2);
    let since = model.tick();
    let mut torn = stamped(0, SECTOR, 1);
    torn[256..].copy_from_slice(&stamped(0, SECTOR, 2)[256..]);
    assert!(model.check(0, since, &torn).is_err());
}
