//! A fuzz target's corpus, replayed by the tests of its crate: what fuzzing once reached stays
//! tested.

use std::fs;
use std::path::Path;

/// Gives all inputs kept for `target` in the crate at `manifest_dir` to `run`.
pub(crate) fn replay(manifest_dir: &str, target: &str, run: fn(&[u8])) {
    let corpus = Path::new(manifest_dir).join("fuzz/corpus").join(target);
    let inputs: Vec<_> = fs::read_dir(&corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty(), "no corpus in {}", corpus.display());
    for input in inputs {
        println!("{}", input.display());
        run(&fs::read(&input).unwrap());
    }
}
