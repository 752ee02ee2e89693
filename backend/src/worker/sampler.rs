//! The choice of the writes that are looked at for a guest that changes their data.

/// Chooses the writes that are looked at.
#[derive(Debug)]
pub(super) struct Sampler {
    one_in: u32,
    left: u32,
}

impl Sampler {
    /// Chooses one in `one_in` writes; none with 0.
    pub(super) fn new(one_in: u32) -> Self {
        Self { one_in, left: one_in }
    }

    /// Whether this write is chosen.
    #[inline]
    pub(super) fn chooses(&mut self) -> bool {
        if self.left > 1 {
            self.left -= 1;
            return false;
        }
        self.left = self.one_in;
        self.one_in > 0
    }
}
