//! The content of the measured disks: the same eight bytes repeatedly, and every write writes them
//! again.
//!
//! So a disk never changes, and back-ends with and without integrity can take turns on one file:
//! all tuples still match after another back-end has written to it.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use crate::error::BenchError;

/// No byte is like another, and none is zero: a block is never taken for an unwritten one.
const WORD: [u8; 8] = 0x9E37_79B9_7F4A_7C15_u64.to_le_bytes();
const CHUNK: usize = 1 << 20;

/// Fills whole words.
pub(crate) fn fill(buffer: &mut [u8]) {
    buffer.chunks_exact_mut(WORD.len()).for_each(|word| word.copy_from_slice(&WORD));
}

/// Whether a buffer of whole words was read from the disk.
pub(crate) fn is_that_of_the_disk(buffer: &[u8]) -> bool {
    buffer.chunks_exact(WORD.len()).all(|word| word == WORD)
}

/// Creates a disk of `size` bytes, whole words.
pub(crate) fn create(path: &Path, size: u64) -> Result<(), BenchError> {
    let file = File::create(path).map_err(BenchError::file("create", path))?;
    write(&file, size).and_then(|()| file.sync_all()).map_err(BenchError::file("write", path))
}

/// Writes `size` bytes of it, whole words.
fn write(mut to: impl Write, size: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    fill(&mut chunk);
    let mut left = size;
    while left > 0 {
        let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        to.write_all(&chunk[..len])?;
        left -= len as u64;
    }
    Ok(())
}

/// For fio's `buffer_pattern`, which takes the bytes in the order they are written.
pub(crate) fn fio_pattern() -> String {
    WORD.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_data_is_recognized() {
        let mut disk = Vec::new();
        write(&mut disk, (CHUNK + 4096) as u64).unwrap();
        assert_eq!(disk.len(), CHUNK + 4096);
        assert!(is_that_of_the_disk(&disk));
        disk[CHUNK + 4095] ^= 1;
        assert!(!is_that_of_the_disk(&disk));
        assert_eq!(fio_pattern(), "0x157c4a7fb979379e");
    }
}
