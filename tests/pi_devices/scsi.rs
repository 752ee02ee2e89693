//! SCSI disks, of which the emulated controller checks tags on the way (DIX) and on the medium
//! (DIF).

use guest::Kernel;
use serde_json::json;

use crate::bench::Bench;
use crate::exercise::{self, DAMAGED};
use crate::namespace::config;

/// Where the defect is shown, in bytes.
const DEFECT: u64 = 8 << 20;

/// A write of the kernel without tags leaves the tags of the medium unchanged.
const DAMAGE: &str = "tagless";

fn scsi(name: &str, parameters: &str, format: &str) {
    let scratch = tempfile::tempdir().unwrap();
    // its WRITE SAME leaves stale tuples behind, so without that
    let module = format!("scsi_debug dix=1 dev_size_mb=32 write_same_length=0 {parameters}");
    let script = format!(
        "
        {DAMAGE}() {{
            echo 0 >/sys/block/sda/integrity/write_generate
            dd if=/bin/busybox of=/dev/sda bs=4096 count=1 seek={} oflag=direct conv=notrunc || return
            echo 1 >/sys/block/sda/integrity/write_generate
        }}
        {}

        serve /dev/sda --control /tmp/control || exit
        stableblk ctl /tmp/control scrub start --rate 1G --wait --json | tr -d '\n' | report {name} scrub
        stableblk ctl /tmp/control damage --json | tr -d '\n' | report {name} damage
        stop || exit
        ",
        DAMAGED / 4096,
        exercise::script(name, "/dev/sda", "stamp verify /dev/sda 2 1", DAMAGE)
    );
    let bench = Bench { kernel: Kernel::Unstable, modules: &["sd_mod", &module], ..Bench::UNSTABLE };
    let Some(reports) = bench.run(&config(scratch.path(), &[]), &script) else { return };
    reports.assert_exercised(name, "protection error");
    // the kernel has no way to a SCSI disk's tuples without checks, so which tag it was stays
    // unknown
    let found = reports.get(name, "found");
    assert_eq!(
        found[0], "the device refused the read: protection error; it does not give it without checks either",
        "{found}"
    );
    assert_eq!(reports.get(name, "info")["integrity"]["format"], format);
    // block by block, a scrub finds which those are; behind them the defect has left others
    let damage = reports.get(name, "damage");
    let block_size = damage["block_size"].as_u64().unwrap();
    let found = damage["ranges"].as_array().unwrap().iter().map(|range| {
        assert_eq!((&range["check"], &range["found_by"]), (&json!("device"), &json!(["scrub"])), "{damage}");
        range["first_lba"].as_u64().unwrap()
    });
    let found: Vec<_> = found.filter(|lba| lba * block_size < DEFECT).collect();
    let expected = DAMAGED / block_size..(DAMAGED + 4096) / block_size;
    assert_eq!(found, expected.collect::<Vec<_>>(), "{name}");
    assert_eq!(reports.get(name, "scrub")["last_found"], damage["blocks"]);
}

#[test]
fn scsi_type_1_with_a_crc_is_served() {
    scsi("crc", "dif=1 guard=0", "T10-DIF-TYPE1-CRC");
}

#[test]
fn scsi_type_1_with_an_ip_checksum_is_served() {
    scsi("ip", "dif=1 guard=1", "T10-DIF-TYPE1-IP");
}

#[test]
fn scsi_type_3_with_a_crc_over_4096_bytes_is_served() {
    scsi("type3", "dif=3 guard=0 sector_size=4096", "T10-DIF-TYPE3-CRC");
}
