//! Sectors that name the write that they are of.

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// Sectors from `sector` on, all of the write that `stamp` (not 0) names. Stamp 0 is a sector of
/// zeros.
#[must_use]
pub fn stamped(sector: u64, count: usize, stamp: u64) -> Vec<u8> {
    (sector..).take(count).flat_map(|sector| stamped_sector(sector, stamp)).collect()
}

/// The stamps of the sectors in `data`, which begins with `sector`.
///
/// # Errors
/// Names a sector that is no whole one of anyone's.
pub fn stamps(sector: u64, data: &[u8]) -> Result<Vec<u64>, String> {
    (sector..)
        .zip(data.chunks(SECTOR))
        .map(|(sector, bytes)| {
            let stamp = bytes.first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
            if bytes == stamped_sector(sector, stamp) {
                Ok(stamp)
            } else {
                Err(format!("sector {sector} is torn, or of another place: {:02x?}", &bytes[..16]))
            }
        })
        .collect()
}

/// Every word has sector and stamp, so that no part of it can be of another one.
fn stamped_sector(sector: u64, stamp: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if stamp != 0 {
        for (index, word) in (0u64..).zip(bytes.chunks_mut(16)) {
            word[..8].copy_from_slice(&stamp.to_le_bytes());
            word[8..].copy_from_slice(&(sector << 8 | index).to_le_bytes());
        }
    }
    bytes
}
