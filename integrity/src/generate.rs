//! Writing tuples.

use crate::length::LengthError;
use crate::profile::IntegrityProfile;
use crate::tags::Tags;
use crate::tuple::Tuple;

impl IntegrityProfile {
    /// Writes a tuple for each interval of `data` into `metadata`, whose opaque bytes stay as they are. Metadata
    /// past that of the last interval is not touched.
    pub fn generate(&self, tags: &Tags, data: &[u8], metadata: &mut [u8]) -> Result<(), LengthError> {
        self.check_lengths(data.len(), metadata.len())?;
        let intervals = data.chunks_exact(self.interval_size());
        for ((index, interval), metadata) in (0..)
            .zip(intervals)
            .zip(metadata.chunks_exact_mut(self.metadata_size()))
        {
            let guard = self.guard_of(interval, &metadata[..self.tuple_offset()]);
            self.encode(&self.tuple_at(tags, index, guard), metadata);
        }
        Ok(())
    }

    /// The guard over an interval and the metadata before its tuple.
    #[inline]
    pub(crate) fn guard_of(&self, interval: &[u8], covered_metadata: &[u8]) -> u64 {
        if covered_metadata.is_empty() {
            return self.guard().compute(interval);
        }
        let mut digest = self.guard().digest();
        digest.update(interval);
        digest.update(covered_metadata);
        digest.finalize()
    }

    /// The tuple that interval `index` of the request is to have.
    #[inline]
    fn tuple_at(&self, tags: &Tags, index: u64, guard: u64) -> Tuple {
        Tuple {
            guard,
            application: tags.application,
            reference: self.reference_at(tags.reference, index),
            storage: tags.storage,
        }
    }
}
