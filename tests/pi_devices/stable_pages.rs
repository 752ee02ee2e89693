//! Storage without protection information that needs stable pages all the same.

use crate::bench::Bench;
use crate::namespace::{Namespace, config};

/// The file of the queue can be written, so an emulated disk can ask too.
#[test]
fn a_queue_that_asks_for_stable_pages_gets_them() {
    let scratch = tempfile::tempdir().unwrap();
    let script = r"
        log() { serve $(block 1) --integrity none && stop && grep -c 'bouncing every request.*queue/stable_writes' /tmp/log; }
        log | report plain before
        echo 1 >/sys/block/$(basename $(block 1))/queue/stable_writes
        log | report plain after
    ";
    let plain = Namespace::new("plain", 512, 0, 0);
    let Some(reports) = Bench::STABLE.run(&config(scratch.path(), &[plain]), script) else { return };
    assert_eq!((reports.get("plain", "before"), reports.get("plain", "after")), (&0.into(), &1.into()));
}
