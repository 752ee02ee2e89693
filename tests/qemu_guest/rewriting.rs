//! A guest rewrites its buffers while they are being written.

use crate::bench::{Bench, json};

const REWRITE: &str = "rewriter /dev/vda 0 1000 65536 8";

#[test]
fn rewriting_buffers_in_flight_breaks_no_guard() {
    let bench = Bench::new(&[]);
    let result = json(&bench.run("multi-queue.cfg", None, REWRITE));
    assert_eq!(result, serde_json::json!({"writes": 1000, "write_errors": 0, "read_errors": 0}));
    assert_eq!(bench.count_mismatches(), 0);
}

/// Shows that the guest above does rewrite in flight, and that `check` finds what it leaves. On a
/// busy machine its rewriting thread may hardly run; then it is tried again.
#[test]
fn rewriting_buffers_in_flight_breaks_guards_without_stable_folios() {
    const ATTEMPTS: u32 = 5;
    for _ in 0..ATTEMPTS {
        let bench = Bench::new(&["--bounce", "never"]);
        let result = json(&bench.run("multi-queue.cfg", None, REWRITE));
        assert_eq!((&result["writes"], &result["write_errors"]), (&1000.into(), &0.into()));
        if bench.count_mismatches() > 0 {
            assert_ne!(result["read_errors"], 0, "a broken guard must be an error of the read");
            return;
        }
    }
    panic!("{ATTEMPTS} times 1000 writes without a bounce, and no mismatch");
}
