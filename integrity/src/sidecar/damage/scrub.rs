//! How far a scrub has come, so that it continues after a restart.

/// The state of a scrub.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ScrubState {
    /// There was none, or it has read the whole disk.
    #[default]
    Done,
    /// It is under way. The next session continues.
    Running,
    /// It was stopped, and continues when it is started again.
    Stopped,
}

/// How far a scrub has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ScrubRecord {
    /// The state of the scrub.
    pub state: ScrubState,
    /// The first byte that was not verified.
    pub position: u64,
    /// The most bytes that it reads a second; 0: the default.
    pub rate: u64,
    /// When it was begun, in seconds since 1970.
    pub begun: u64,
    /// Blocks that it has found.
    pub found: u64,
    /// When the last scrub that has read the whole disk was done, in seconds since 1970; 0: none
    /// has.
    pub last_done: u64,
    /// Blocks that that scrub has found.
    pub last_found: u64,
}
