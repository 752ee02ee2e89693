//! A guest gets more memory while its disk is busy, and the disk's data goes there: the kernel
//! takes its page cache from the highest zone, in which only what was added lies.

use std::path::Path;
use std::time::{Duration, Instant};
use std::{fs, thread};

use guest::{GuestError, Qmp};
use serde_json::json;

use crate::bench::{Bench, json as parsed};

const DIMM_MIB: u64 = 128;
const DIMMS: u64 = 2;
/// Of the host's side: the guest has booted and written its disk by then.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// Reads the disk repeatedly into newly allocated memory, until the test ends that phase; then
/// fills more memory than the guest began with, and reads once more.
const SCRIPT: &str = r#"
blocks() { ls -d /sys/devices/system/memory/memory* | wc -l; }
sum() { echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M count=60 2>/dev/null | md5sum; }
dd if=/dev/urandom of=/dev/vda bs=1M count=60 2>/dev/null
sync
sum > /sums
before=$(blocks)
(while [ ! -e /plugged ]; do sum >> /sums; done; touch /stopped) &
while [ $(wc -l < /sums) -lt 2 ]; do sleep 0.2; done
echo READY
while [ $(blocks) -lt $((before + 2)) ]; do sleep 0.2; done
for state in /sys/devices/system/memory/memory*/state; do
    [ $(cat $state) = online ] || echo online > $state
done
sum >> /sums
touch /plugged
while [ ! -e /stopped ]; do sleep 0.2; done
mkdir /ram && mount -t tmpfs -o size=350M none /ram
dd if=/dev/zero of=/ram/file bs=1M count=300 2>/dev/null
sum >> /sums
cached=$(awk '$1 == "Cached:" { a = $2 } $1 == "Buffers:" { b = $2 } END { print a + b }' /proc/meminfo)
total=$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)
echo "{ \"total_kib\": $total, \"reads\": $(wc -l < /sums), \"different\": $(sort -u /sums | wc -l), \"cached_kib\": $cached }"
"#;

#[test]
fn the_guest_reads_into_memory_that_was_added() {
    let bench = Bench::new(&[]);
    let (monitor, output) = (bench.path("monitor.sock"), bench.path("output.log"));
    let plug = thread::spawn(move || plug_in(&monitor, &output));
    let output = bench.run("memory-hotplug.cfg", None, SCRIPT);
    plug.join().expect("the host's side").unwrap_or_else(|error| panic!("{error}"));
    let result = parsed(output.trim_start().trim_start_matches("READY"));
    assert_eq!(result["different"], 1, "{result}");
    assert!(result["reads"].as_u64() >= Some(4), "{result}");
    // the guest began with 256 MiB
    assert!(result["cached_kib"].as_u64() > Some(300 << 10), "it did not use the memory: {result}");
    assert_eq!(bench.count_mismatches(), 0);
}

fn plug_in(monitor: &Path, output: &Path) -> Result<(), GuestError> {
    let deadline = Instant::now() + TIME_LIMIT;
    while !fs::read_to_string(output).is_ok_and(|output| output.contains("READY")) {
        assert!(Instant::now() < deadline, "the guest did not begin to read");
        thread::sleep(Duration::from_millis(50));
    }
    let mut monitor = Qmp::connect(monitor)?;
    for index in 0..DIMMS {
        let (memory, dimm) = (format!("more{index}"), format!("dimm{index}"));
        monitor.execute(
            "object-add",
            &json!({ "qom-type": "memory-backend-memfd", "id": memory, "size": DIMM_MIB << 20, "share": true }),
        )?;
        monitor.execute("device_add", &json!({ "driver": "pc-dimm", "id": dimm, "memdev": memory }))?;
    }
    Ok(())
}
