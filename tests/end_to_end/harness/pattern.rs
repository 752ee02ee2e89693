//! Data that tells what it is.

const SECTOR: usize = 512;

/// `len` bytes that differ for each `seed` and, within, from place to place.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut data: Vec<u8> = std::iter::repeat_with(next).take(len.div_ceil(8)).flatten().collect();
    data.truncate(len);
    data
}

/// Sectors from `sector` on, all of the write that `stamp` (not 0) names. Stamp 0 is a sector never written.
pub(crate) fn stamped(sector: u64, count: usize, stamp: u64) -> Vec<u8> {
    (sector..).take(count).flat_map(|sector| stamped_sector(sector, stamp)).collect()
}

/// The stamps of the sectors in `data`, which begins with `sector`. A sector that is no whole one of anyone's is an error.
pub(crate) fn stamps(sector: u64, data: &[u8]) -> Result<Vec<u64>, String> {
    (sector..)
        .zip(data.chunks(SECTOR))
        .map(|(sector, bytes)| {
            let stamp = u64::from_le_bytes(*bytes.first_chunk().unwrap());
            if bytes == stamped_sector(sector, stamp) {
                Ok(stamp)
            } else {
                Err(format!("sector {sector} is torn, or of another place: {:02x?}", &bytes[..16]))
            }
        })
        .collect()
}

fn stamped_sector(sector: u64, stamp: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    if stamp != 0 {
        for (index, word) in bytes.chunks_mut(16).enumerate() {
            word[..8].copy_from_slice(&stamp.to_le_bytes());
            word[8..].copy_from_slice(&(sector << 8 | index as u64).to_le_bytes());
        }
    }
    bytes
}
