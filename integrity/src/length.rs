//! Lengths of what a caller hands in, checked before a byte is read or written.

use thiserror::Error;

use crate::profile::IntegrityProfile;

/// Data, metadata or blocks that do not fit the profile or each other. Nothing was read or written.
/// All in bytes.
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
    /// The metadata is too short for the intervals.
    #[error("metadata of {metadata_len} bytes is shorter than the {needed} needed")]
    Metadata {
        /// Length of the metadata.
        metadata_len: usize,
        /// Length that the intervals need.
        needed: usize,
    },
    /// Metadata that is remapped is no whole number of intervals' metadata.
    #[error("metadata of {metadata_len} bytes is not a multiple of the {metadata_size} per interval")]
    PartialMetadata {
        /// Length of the metadata.
        metadata_len: usize,
        /// Length of one interval's metadata.
        metadata_size: usize,
    },
    /// The interleaved blocks are no whole number of blocks.
    #[error(
        "blocks of {blocks_len} bytes are not a multiple of the block of {block_size}, metadata included"
    )]
    Blocks {
        /// Length of the blocks.
        blocks_len: usize,
        /// Length of one interval with its metadata.
        block_size: usize,
    },
}

impl IntegrityProfile {
    /// Intervals in data of `data_len`, which has metadata of `metadata_len`.
    pub(crate) fn intervals_in(&self, data_len: usize, metadata_len: usize) -> Result<u64, LengthError> {
        let interval_size = self.interval_size();
        if !data_len.is_multiple_of(interval_size) {
            return Err(LengthError::Data { data_len, interval_size });
        }
        check_metadata(metadata_len, self.metadata_len(data_len))?;
        Ok((data_len / interval_size) as u64)
    }

    /// Checks that metadata of `metadata_len` on its own is that of whole intervals.
    pub(crate) fn check_whole_metadata(&self, metadata_len: usize) -> Result<(), LengthError> {
        let metadata_size = self.metadata_size();
        if !metadata_len.is_multiple_of(metadata_size) {
            return Err(LengthError::PartialMetadata { metadata_len, metadata_size });
        }
        Ok(())
    }

    /// Checks that metadata of `metadata_len` holds that of one interval.
    pub(crate) fn check_metadata_of_one(&self, metadata_len: usize) -> Result<(), LengthError> {
        check_metadata(metadata_len, self.metadata_size())
    }

    /// Blocks in interleaved blocks of `blocks_len`.
    pub(crate) fn blocks_in(&self, blocks_len: usize) -> Result<u64, LengthError> {
        let block_size = self.block_size();
        if !blocks_len.is_multiple_of(block_size) {
            return Err(LengthError::Blocks { blocks_len, block_size });
        }
        Ok((blocks_len / block_size) as u64)
    }
}

fn check_metadata(metadata_len: usize, needed: usize) -> Result<(), LengthError> {
    if metadata_len < needed {
        return Err(LengthError::Metadata { metadata_len, needed });
    }
    Ok(())
}
