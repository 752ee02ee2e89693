//! A guest swaps.

use crate::bench::{Bench, json};

#[test]
fn swapped_pages_come_back_as_they_were() {
    let bench = Bench::new(&[]);
    let script = "mkswap /dev/vda >&2 && swapon /dev/vda && swap-stress 96 1";
    let result = json(&bench.run("single-disk.cfg", Some(96), script));
    assert_eq!(result["pages_wrong"], 0);
    assert!(result["pages_swapped_in"].as_u64() > Some(10_000), "the guest hardly swapped: {result}");
    assert_eq!(bench.count_mismatches(), 0);
}
