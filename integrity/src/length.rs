//! Lengths of what a caller hands in, checked before a byte is read or written.

use thiserror::Error;

use crate::profile::IntegrityProfile;

/// Data and metadata that do not fit the profile or each other. Nothing was read or written. All in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LengthError {
    /// The data is no whole number of intervals.
    #[error("data of {data_len} bytes is not a multiple of the interval of {interval_size}")]
    Data {
        /// Length of the data.
        data_len: usize,
        /// Length of one interval.
        interval_size: usize,
    },
    /// The metadata is too short for the data's intervals.
    #[error("metadata of {metadata_len} bytes is shorter than the {needed} needed")]
    Metadata {
        /// Length of the metadata.
        metadata_len: usize,
        /// Length that the data's intervals need.
        needed: usize,
    },
}

impl IntegrityProfile {
    pub(crate) fn check_lengths(&self, data_len: usize, metadata_len: usize) -> Result<(), LengthError> {
        let interval_size = self.interval_size();
        if !data_len.is_multiple_of(interval_size) {
            return Err(LengthError::Data {
                data_len,
                interval_size,
            });
        }
        check_metadata(metadata_len, self.metadata_len(data_len))
    }
}

pub(crate) fn check_metadata(metadata_len: usize, needed: usize) -> Result<(), LengthError> {
    if metadata_len < needed {
        return Err(LengthError::Metadata { metadata_len, needed });
    }
    Ok(())
}
