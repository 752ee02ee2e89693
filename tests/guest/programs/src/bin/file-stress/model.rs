//! The expected content of a file.

use std::{io, ops::Range};

use fastrand::Rng;

use crate::operation::Operation;

/// A file's contents in memory.
#[derive(Debug, Default)]
pub(crate) struct Model(Vec<u8>);

impl Model {
    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Read { .. } | Operation::Sync => {}
            Operation::Write { range, seed, .. } => {
                self.0.resize(self.0.len().max(range.end), 0);
                Rng::with_seed(*seed).fill(&mut self.0[range.clone()]);
            }
            Operation::Truncate { len } => self.0.resize(*len, 0),
            Operation::PunchHole { range } => {
                let within = self.within(range);
                self.0[within].fill(0);
            }
            Operation::Replace => self.0.clear(),
        }
    }

    /// The bytes of `range` that are before the end of the file.
    pub(crate) fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.0[self.within(range)]
    }

    /// An error unless `found` is what a read of `range` must give.
    pub(crate) fn verify(&self, range: &Range<usize>, found: &[u8]) -> io::Result<()> {
        let expected = self.bytes(range);
        if found.len() != expected.len() {
            let lengths = format!("{} bytes instead of {}", found.len(), expected.len());
            return Err(io::Error::other(lengths));
        }
        let mut pairs = (range.start..)
            .zip(found.iter().zip(expected))
            .filter(|(_, (found, expected))| found != expected);
        let Some((offset, (found, expected))) = pairs.next() else { return Ok(()) };
        let wrong = 1 + pairs.count();
        Err(io::Error::other(format!(
            "{wrong} bytes are wrong; byte {offset} is {found:#04x} instead of {expected:#04x}"
        )))
    }

    fn within(&self, range: &Range<usize>) -> Range<usize> {
        range.start.min(self.0.len())..range.end.min(self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Route;

    fn written(range: Range<usize>) -> Model {
        let mut model = Model::default();
        model.apply(&Operation::Write { route: Route::Buffered, range, seed: 1 });
        model
    }

    #[test]
    fn operations_change_what_they_name_and_nothing_else() {
        let mut model = written(100..200);
        assert!(model.bytes(&(0..100)).iter().all(|&byte| byte == 0), "what was skipped is zeros");
        let before = model.bytes(&(0..200)).to_vec();
        assert!(before[100..].iter().any(|&byte| byte != 0));

        model.apply(&Operation::PunchHole { range: 150..300 });
        assert_eq!(model.bytes(&(0..150)), &before[..150]);
        assert_eq!(model.bytes(&(150..400)), [0; 50], "the length stays");

        model.apply(&Operation::Truncate { len: 120 });
        model.apply(&Operation::Truncate { len: 160 });
        assert_eq!(model.bytes(&(0..120)), &before[..120]);
        assert_eq!(model.bytes(&(120..160)), [0; 40], "what was cut off does not come back");

        model.apply(&Operation::Replace);
        assert_eq!(model.bytes(&(0..160)), []);
    }

    #[test]
    fn one_wrong_byte_is_reported_with_its_offset() {
        let model = written(0..200);
        let mut found = model.bytes(&(50..150)).to_vec();
        model.verify(&(50..150), &found).unwrap();
        found[10] ^= 0x80;
        let error = model.verify(&(50..150), &found).unwrap_err().to_string();
        assert!(error.starts_with("1 bytes are wrong; byte 60 is"), "{error}");
    }

    #[test]
    fn a_wrong_length_is_an_error() {
        let model = written(0..200);
        let found = model.bytes(&(150..300)).to_vec();
        model.verify(&(150..300), &found).unwrap();
        model.verify(&(150..300), &found[1..]).unwrap_err();
        model.verify(&(150..300), &[0; 51]).unwrap_err();
    }
}
