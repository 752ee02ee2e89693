//! Threads that may not wait for storage: a worker sleeps in `io_uring_enter` alone.

use std::cell::Cell;

thread_local! {
    static MAY_BLOCK: Cell<bool> = const { Cell::new(true) };
}

/// While it lives, calls of this thread that can wait for storage are bugs.
#[derive(Debug)]
#[must_use]
pub struct NeverBlocks(());

impl NeverBlocks {
    /// Marks this thread.
    pub fn mark() -> Self {
        MAY_BLOCK.set(false);
        Self(())
    }
}

impl Drop for NeverBlocks {
    fn drop(&mut self) {
        MAY_BLOCK.set(true);
    }
}

/// Panics in debug builds when this thread may not wait for storage.
pub fn debug_assert_may_block() {
    debug_assert!(MAY_BLOCK.get(), "a worker waits for storage in a system call");
}
