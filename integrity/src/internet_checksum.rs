//! The Internet checksum of RFC 1071, DIX's guard for hosts without a fast CRC.

/// Bytes summed before the carries are folded in: 32-bit words cannot overflow a 64-bit sum this
/// soon.
const BLOCK_LEN: usize = 1 << 16;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InternetChecksum {
    /// One's complement sum of the big-endian 16-bit words so far.
    sum: u16,
    /// An odd number of bytes came before, so the next byte is the low half of a word.
    odd: bool,
}

impl InternetChecksum {
    pub(crate) fn compute(data: &[u8]) -> u16 {
        !sum(data)
    }

    pub(crate) fn update(&mut self, data: &[u8]) {
        let sum = sum(data);
        // RFC 1071 §2(B): bytes that stand at the other parity give the byte-swapped sum
        let sum = if self.odd { sum.swap_bytes() } else { sum };
        self.sum = fold(u64::from(self.sum) + u64::from(sum));
        self.odd ^= data.len() % 2 == 1;
    }

    pub(crate) fn finalize(self) -> u16 {
        !self.sum
    }
}

/// Apart from its callers, so that each has the same vector loop.
///
/// One's complement sum of `data` as big-endian 16-bit words, a last odd byte padded with zero.
#[inline(never)]
fn sum(data: &[u8]) -> u16 {
    let native = data.chunks(BLOCK_LEN).fold(0, |sum, block| fold(u64::from(sum) + block_sum(block)));
    u16::from_be(native)
}

/// Sums native-endian words: RFC 1071 §2(B) lets the byte order be mended once, at the end.
fn block_sum(block: &[u8]) -> u64 {
    let (words, rest) = block.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).map(|word| u64::from(u32::from_ne_bytes(*word))).sum()
}

/// Adds the carries back in until 16 bits hold the sum.
#[expect(clippy::cast_possible_truncation, reason = "the loop ends when no bit is left above the low 16")]
fn fold(mut sum: u64) -> u16 {
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}
