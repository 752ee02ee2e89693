//! Debian's fio verifies its own writes.

use crate::bench::{Bench, json};

/// The small writes among fio's share protection intervals. Its program and libraries come from the
/// read-only disk.
#[test]
fn fio_verifies_what_it_wrote_and_a_read_only_disk_takes_no_write() {
    let bench = Bench::new(&[]).with_tools(&["/usr/bin/fio"]);
    let script = "
        tool fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=512-128k \
            --numjobs=4 --size=24M --offset_increment=24M --fsync=64 --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
            --group_reporting --eta=never --output-format=json --output=/tmp/verify.json || exit
        sed -n '/^{/,$p' /tools/tmp/verify.json # a warning may stand before
        ! stamp write /dev/vdb 1 1
    ";
    let result = json(&bench.run("second-disk-read-only.cfg", None, script));
    let jobs = &result["jobs"][0];
    assert_eq!(jobs["error"], 0);
    assert!(jobs["write"]["io_bytes"].as_u64() > Some(32 << 20), "fio hardly wrote: {jobs}");
    assert_eq!(bench.count_mismatches(), 0);
}
