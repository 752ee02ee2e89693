//! A hash that is fast and the same in each run. Its input is not chosen by an attacker.

use std::hash::{BuildHasher, Hash, Hasher};

/// A hash of 128 bits, by which alone millions of states are distinguished.
pub(crate) fn fingerprint(value: &impl Hash) -> u128 {
    let mut hasher = Quick(0x243F_6A88_85A3_08D3_1319_8A2E_0370_7344);
    value.hash(&mut hasher);
    hasher.0
}

#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct QuickHasher;

impl BuildHasher for QuickHasher {
    type Hasher = Quick;

    fn build_hasher(&self) -> Quick {
        Quick(0x243F_6A88_85A3_08D3_1319_8A2E_0370_7344)
    }
}

#[derive(Debug)]
pub(crate) struct Quick(u128);

impl Quick {
    fn add(&mut self, word: u64) {
        const ODD: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;
        let mixed = (self.0 ^ u128::from(word)).wrapping_mul(ODD);
        self.0 = mixed ^ mixed >> 64;
    }
}

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        (self.0 >> 64) as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_ne_bytes(word));
        }
    }

    fn write_u32(&mut self, value: u32) {
        self.add(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.add(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.add(value as u64);
    }
}
