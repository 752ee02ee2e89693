//! A kernel whose io_uring has no attributes: before Linux 6.14 it ignores them without a word.

use serde_json::Value;

use crate::bench::Bench;
use crate::namespace::{Namespace, config};

#[test]
fn an_older_kernel_is_refused_with_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let script = r"
        stableblk info $(block 1) --json | tr -d '\n' | report disk info
        serve $(block 1) 2>/tmp/refused && exit
        grep -c 'IORING_FEAT_RW_ATTR, Linux 6.14.*--integrity none' /tmp/refused | report disk refused
        # the kernel generates the tags, and must not do so over pages that change
        serve $(block 1) --integrity none || exit
        disk rewrite 0 16384000 0 | report disk left-to-the-kernel
        stop || exit
        grep -c 'needs stable pages: the kernel generates' /tmp/log | report disk reason
    ";
    let disk = Namespace::new("disk", 4096, 8, 1);
    let Some(reports) = Bench::STABLE.run(&config(scratch.path(), &[disk]), script) else { return };
    let info = reports.get("disk", "info");
    assert_eq!(
        (&info["integrity"]["format"], &info["integrity"]["found_by"]),
        (&"T10-DIF-TYPE1-CRC".into(), &"sysfs".into())
    );
    assert_eq!(info["served_by"], Value::Null);
    assert!(info["refused"].as_str().unwrap().contains("IORING_FEAT_RW_ATTR"), "{info}");
    assert_eq!(reports.get("disk", "refused"), 1);
    reports.assert_good("disk", "left-to-the-kernel");
    assert_eq!(reports.get("disk", "reason"), 1);
}
