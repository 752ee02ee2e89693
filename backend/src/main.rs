//! stableblk
fn main() {}
