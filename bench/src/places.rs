//! The blocks that the requests of a load are for.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution as _, Zipf};

use crate::workload::Distribution;

/// Of the requests of Zipf's law: the block of rank k has a share proportional to k^-1.1.
const EXPONENT: f64 = 1.1;
/// A prime above the number of blocks of any disk here. Multiples of it, modulo the number of
/// blocks, are all blocks in another order: blocks of successive ranks lie far apart.
const STRIDE: u128 = 0x9E37_79B9_7F4A_7C55;

/// Random blocks, the same in each run.
#[derive(Debug)]
pub(crate) enum Places {
    /// Each block as often as any other.
    Uniform { random: fastrand::Rng, blocks: u64 },
    /// Few blocks often, spread over the whole disk.
    Zipf { random: SmallRng, ranks: Zipf<f64>, blocks: u64 },
}

impl Places {
    /// Of a disk of `blocks`, at least one.
    pub(crate) fn new(distribution: Distribution, blocks: u64) -> Self {
        match distribution {
            Distribution::Uniform => Self::Uniform { random: fastrand::Rng::with_seed(1), blocks },
            Distribution::Zipf => {
                let ranks = Zipf::new(as_f64(blocks), EXPONENT).expect("at least one block");
                Self::Zipf { random: SmallRng::seed_from_u64(1), ranks, blocks }
            }
        }
    }

    pub(crate) fn next(&mut self) -> u64 {
        match self {
            Self::Uniform { random, blocks } => random.u64(..*blocks),
            Self::Zipf { random, ranks, blocks } => block_of(rank(ranks.sample(random)), *blocks),
        }
    }
}

/// The block of a rank, which counts from 1.
fn block_of(rank: u64, blocks: u64) -> u64 {
    let block = u128::from(rank) * STRIDE % u128::from(blocks);
    u64::try_from(block).expect("less than the blocks")
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 blocks")]
fn as_f64(blocks: u64) -> f64 {
    blocks as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, from 1 to the blocks")]
fn rank(sample: f64) -> u64 {
    sample as u64
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    const BLOCKS: u64 = 1000;
    const REQUESTS: u32 = 400_000;

    fn counts(distribution: Distribution) -> HashMap<u64, u32> {
        let mut places = Places::new(distribution, BLOCKS);
        let mut counts = HashMap::new();
        (0..REQUESTS).for_each(|_| *counts.entry(places.next()).or_default() += 1);
        counts
    }

    #[test]
    fn each_rank_has_a_block_of_its_own() {
        for blocks in [1, 2, 1000, 1 << 12] {
            let all: HashSet<_> = (1..=blocks).map(|rank| block_of(rank, blocks)).collect();
            assert_eq!(all.len() as u64, blocks);
            assert!(all.iter().all(|block| *block < blocks));
        }
    }

    #[test]
    fn shares_are_those_of_zipfs_law() {
        let counts = counts(Distribution::Zipf);
        let weight = |rank: u64| as_f64(rank).powf(-EXPONENT);
        let sum: f64 = (1..=BLOCKS).map(weight).sum();
        for rank in [1, 2, 3, 10, 100] {
            let expected = weight(rank) / sum * f64::from(REQUESTS);
            let count = f64::from(counts[&block_of(rank, BLOCKS)]);
            // five times the standard deviation
            assert!((count - expected).abs() < 5.0 * expected.sqrt(), "rank {rank}: {count}, {expected}");
        }
    }

    #[test]
    fn uniform_requests_have_no_favourite() {
        let counts = counts(Distribution::Uniform);
        let expected = f64::from(REQUESTS) / as_f64(BLOCKS);
        assert_eq!(counts.len() as u64, BLOCKS);
        assert!(counts.values().all(|count| (f64::from(*count) - expected).abs() < 6.0 * expected.sqrt()));
    }

    #[test]
    fn each_run_has_the_same_requests() {
        for distribution in [Distribution::Uniform, Distribution::Zipf] {
            let [mut one, mut other] = [(); 2].map(|()| Places::new(distribution, BLOCKS));
            assert!((0..100).all(|_| one.next() == other.next()));
        }
    }
}
