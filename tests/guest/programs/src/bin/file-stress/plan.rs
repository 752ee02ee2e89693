//! The random operations of one thread, the same for the same seed, and what its files hold after
//! each.

use fastrand::Rng;

use crate::{model::Model, operation::Operation};

/// Files of one thread. Several, so that the space of one goes to another.
const FILES: usize = 4;

/// Where a thread is in its operations.
#[derive(Debug)]
pub(crate) struct Plan {
    rng: Rng,
    block_size: usize,
    models: [Model; FILES],
}

impl Plan {
    pub(crate) fn new(seed: u64, block_size: usize) -> Self {
        Self { rng: Rng::with_seed(seed), block_size, models: Default::default() }
    }

    /// The content of the files after the operations so far.
    pub(crate) fn models(&self) -> &[Model] {
        &self.models
    }

    /// The next operation, and which file it is for.
    pub(crate) fn advance(&mut self) -> (usize, Operation) {
        let (file, operation) = (self.rng.usize(..FILES), Operation::random(&mut self.rng, self.block_size));
        self.models[file].apply(&operation);
        (file, operation)
    }
}
