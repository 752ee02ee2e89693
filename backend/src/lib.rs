//! stableblk
