//! Violations of a promise, which must never be seen.

use thiserror::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Error)]
pub(crate) enum Violation {
    #[error("false checksum error")]
    FalseError,
    #[error("flushed data lost, or data that no write left")]
    WrongData,
    #[error("block adopted that holds what was flushed")]
    NeedlesslyAdopted,
    #[error("block adopted without a report")]
    SilentlyAdopted,
    #[error("mixture of writes taken for one of them")]
    UnmarkedMixture,
    #[error("corruption of a settled block missed")]
    MissedCorruption,
    #[error("sidecar cannot be opened")]
    CannotOpen,
    #[error("request never done")]
    Stuck,
    #[error("dirty bit left by a closed session")]
    LeftDirty,
    #[error("page that was written and cannot be read")]
    NotMended,
    #[error("lost durability forgotten")]
    LossForgotten,
    #[error("image and sidecar of two sessions are taken for one pair")]
    TwoSessions,
    #[error("more blocks adopted than can have been in doubt")]
    TooManyAdopted,
    #[error("what was refused has been changed")]
    RefusedAndChanged,
    #[error("block in the damage list that was not noted")]
    MadeUpDamage,
    #[error("failure where the medium had none")]
    Failed,
}
