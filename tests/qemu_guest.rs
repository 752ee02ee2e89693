//! A real Linux guest under QEMU on disks that the built program serves: what no client of our own can vouch for.

use std::{path::PathBuf, time::Duration};

use guest::{Guest, Server, Stableblk, make_fio_disk};
use serde_json::Value;
use tempfile::TempDir;

const TIME_LIMIT: Duration = Duration::from_secs(120);

/// A scratch directory with a protected disk, and whatever serves in it.
struct Bench {
    stableblk: Stableblk,
    scratch: TempDir,
    servers: Vec<Server>,
}

impl Bench {
    /// Serves a new protected image at `disk.sock`, where the files of `qemu-configs/` expect it.
    fn new(options: &[&str]) -> Self {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let stableblk = Stableblk::new(env!("CARGO_BIN_EXE_stableblk"));
        let mut bench = Self { stableblk, scratch, servers: Vec::new() };
        let image = bench.path("disk.raw");
        bench.stableblk.create(&image, "256M").unwrap_or_else(|error| panic!("{error}"));
        bench.serve("disk", options);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Serves `NAME.raw` at `NAME.sock`.
    fn serve(&mut self, name: &str, options: &[&str]) {
        let (image, socket) = (self.path(&format!("{name}.raw")), self.path(&format!("{name}.sock")));
        let server = self.stableblk.serve(&image, &socket, options);
        self.servers.push(server.unwrap_or_else(|error| panic!("{error}")));
    }

    /// Boots the guest and runs `script`; what it printed.
    fn run(&self, config: &str, memory_limit_mib: Option<u32>, script: &str) -> String {
        let guest = Guest { config, script, memory_limit_mib, time_limit: TIME_LIMIT };
        guest.run(self.scratch.path()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Stops all back-ends and counts the blocks of the protected disk that do not match their tuple.
    fn count_mismatches(mut self) -> u64 {
        for server in self.servers.drain(..) {
            server.stop().unwrap_or_else(|error| panic!("{error}"));
        }
        self.stableblk.count_mismatches(&self.path("disk.raw")).unwrap_or_else(|error| panic!("{error}"))
    }
}

fn json(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

const REWRITE: &str = "rewriter /dev/vda 0 1000 65536 8";

#[test]
fn rewriting_buffers_in_flight_breaks_no_guard() {
    let bench = Bench::new(&[]);
    let result = json(&bench.run("multi-queue.cfg", None, REWRITE));
    assert_eq!(result, serde_json::json!({"writes": 1000, "write_errors": 0, "read_errors": 0}));
    assert_eq!(bench.count_mismatches(), 0);
}

/// Shows that the guest above does rewrite in flight, and that `check` finds what it leaves.
#[test]
fn rewriting_buffers_in_flight_breaks_guards_without_stable_folios() {
    let bench = Bench::new(&["--bounce", "never"]);
    let result = json(&bench.run("multi-queue.cfg", None, REWRITE));
    assert_eq!((&result["writes"], &result["write_errors"]), (&1000.into(), &0.into()));
    assert_ne!(result["read_errors"], 0, "a broken guard must be an error of the read");
    assert_ne!(bench.count_mismatches(), 0);
}

#[test]
fn swapped_pages_come_back_as_they_were() {
    let bench = Bench::new(&[]);
    let script = "mkswap /dev/vda >&2 && swapon /dev/vda && swap-stress 96 1";
    let result = json(&bench.run("single-disk.cfg", Some(96), script));
    assert_eq!(result["pages_wrong"], 0);
    assert!(result["pages_swapped_in"].as_u64() > Some(10_000), "the guest hardly swapped: {result}");
    assert_eq!(bench.count_mismatches(), 0);
}

/// The small writes among fio's share protection intervals. Its program and libraries come from the read-only disk.
#[test]
fn fio_verifies_what_it_wrote_and_a_read_only_disk_takes_no_write() {
    let mut bench = Bench::new(&[]);
    make_fio_disk(&bench.path("read-only.raw")).unwrap_or_else(|error| panic!("{error}"));
    bench.serve("read-only", &["--read-only", "--integrity", "none"]);
    let script = "
        fio --name=verify --filename=/dev/vda --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --bsrange=512-128k \
            --numjobs=4 --size=24M --offset_increment=24M --fsync=64 --verify=crc32c --verify_fatal=1 --verify_state_save=0 \
            --group_reporting --eta=never --output-format=json --output=/tmp/verify.json || exit
        sed -n '/^{/,$p' /fio/tmp/verify.json # a warning may stand before
        ! stamp write /dev/vdb 1 1
    ";
    let result = json(&bench.run("second-disk-read-only.cfg", None, script));
    let jobs = &result["jobs"][0];
    assert_eq!(jobs["error"], 0);
    assert!(jobs["write"]["io_bytes"].as_u64() > Some(32 << 20), "fio hardly wrote: {jobs}");
    assert_eq!(bench.count_mismatches(), 0);
}
