//! The back-end goes away under a guest that writes and swaps, and comes back: with 32 requests at
//! a time on four queues, no request may fail, be lost, or be done once more after a later one.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use guest::{Guest, Kernel, Qemu, Server, Stableblk};
use serde_json::Value;
use tempfile::TempDir;

use crate::bench::json;
use crate::skip::skip;

/// The bytes that a back-end must have written before it is stopped: then requests are in flight.
const LOAD: u64 = 512 << 10;
/// For the guest, and for each back-end to get that far.
const TIME_LIMIT: Duration = Duration::from_secs(400);

/// Stamped slots until the second disk says that it is enough.
const WRITING: &str = "endure /dev/vda 1024 32 /dev/vdb";

/// The same on one partition, swap on the other.
const WRITING_AND_SWAPPING: &str = "
    printf 'o\\nn\\np\\n1\\n2048\\n524287\\nn\\np\\n2\\n524288\\n1048575\\nw\\n' | fdisk /dev/vda >/dev/null
    mkswap /dev/vda2 >/dev/null && swapon /dev/vda2 || exit 1
    (
        until [ -e /tmp/stopped ]; do swap-stress 96 1 >>/tmp/swapped || touch /tmp/swap-failed; done
        touch /tmp/swap-done
    ) &
    endure /dev/vda1 1024 32 /dev/vdb || exit 1
    touch /tmp/stopped
    until [ -e /tmp/swap-done ]; do sleep 1; done
    cat /tmp/swapped >&2
    [ ! -e /tmp/swap-failed ]
";

/// How a back-end is made to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outage {
    /// SIGKILL
    Kill,
    /// SIGTERM, as for a new version of the program.
    Restart,
}

/// A QEMU, and its option to connect again.
#[derive(Debug, Clone, Copy)]
struct FrontEnd {
    qemu: Qemu,
    reconnect: &'static str,
}

/// A disk of four queues and the one by which the test stops the guest's load.
struct Disks {
    stableblk: Stableblk,
    scratch: TempDir,
    /// Requests that back-ends said that they did again.
    resumed: u64,
    /// Longest from a signal to the next back-end's socket: the part of a stall that is not the
    /// front-end's.
    down: Duration,
}

impl Disks {
    fn new() -> Self {
        let disks = Self {
            stableblk: Stableblk::new(env!("CARGO_BIN_EXE_stableblk")),
            scratch: tempfile::tempdir().expect("temporary directory"),
            resumed: 0,
            down: Duration::ZERO,
        };
        disks.stableblk.create(&disks.path("disk.raw"), "512M").expect("image");
        let stop = File::create_new(disks.path("stop.raw")).expect("image");
        stop.set_len(1 << 20).expect("image");
        disks
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn serve(&self) -> Server {
        let (image, socket) = (self.path("disk.raw"), self.path("disk.sock"));
        self.stableblk
            .serve(&image, &socket, &["--num-queues", "4"])
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// `multi-queue.cfg` with the second disk, and the front-end connecting again as `reconnect`
    /// says.
    fn config(&self, reconnect: &str) -> PathBuf {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let config =
            fs::read_to_string(repository.join("qemu-configs/multi-queue.cfg")).expect("configuration");
        let config = config.replace("reconnect-ms = \"1000\"", reconnect)
            + "\n[chardev \"stop\"]\n backend = \"socket\"\n path = \"stop.sock\"\n\
               [device \"disk1\"]\n driver = \"vhost-user-blk-pci\"\n chardev = \"stop\"\n num-queues = \"1\"\n";
        let path = self.path("outages.cfg");
        fs::write(&path, config).expect("configuration");
        path
    }

    /// Makes `count` back-ends go, each when it has requests in flight, while the guest runs
    /// `script`. Returns what that says.
    fn endure(&mut self, outage: Outage, count: u32, script: &'static str, front_end: FrontEnd) -> Value {
        let config = self.config(front_end.reconnect);
        let stop = self.path("stop.raw");
        let stop_server =
            self.stableblk.serve(&stop, &self.path("stop.sock"), &["--read-only", "--integrity", "none"]);
        let _stop_server = stop_server.unwrap_or_else(|error| panic!("{error}"));
        let scratch = self.scratch.path().to_owned();
        let guest = thread::spawn(move || {
            let guest = Guest {
                kernel: Kernel::Stable,
                programs: &[],
                config: config.to_str().expect("UTF-8"),
                script,
                modules: &[],
                memory_limit_mib: Some(96),
                time_limit: TIME_LIMIT,
            };
            guest.run_on(front_end.qemu, &scratch)
        });
        let mut server = self.serve();
        for number in 0..count {
            wait_for_load(&server, || assert!(!guest.is_finished(), "the guest ended in outage {number}"));
            let start = Instant::now();
            match outage {
                Outage::Kill => server.kill(),
                Outage::Restart => server.stop().unwrap_or_else(|error| panic!("{error}")),
            }
            self.count_resumed();
            server = self.serve();
            self.down = self.down.max(start.elapsed());
        }
        wait_for_load(&server, || ());
        File::options()
            .write(true)
            .open(stop)
            .and_then(|stop| stop.write_all_at(&[1; 512], 0))
            .expect("stop");
        let output = guest.join().expect("guest").unwrap_or_else(|error| panic!("{error}"));
        server.stop().unwrap_or_else(|error| panic!("{error}"));
        self.count_resumed();
        json(&output)
    }

    /// Looks into the log of the back-end that has ended.
    fn count_resumed(&mut self) {
        let log = fs::read_to_string(self.path("disk.log")).expect("log");
        assert!(!log.contains("ERROR"), "{log}");
        let lines = log.lines().filter(|line| line.contains("requests were in flight"));
        let counts = lines
            .filter_map(|line| line.split("count=").nth(1)?.split_whitespace().next()?.parse::<u64>().ok());
        self.resumed += counts.sum::<u64>();
    }

    fn assert_clean(&self) {
        assert_eq!(self.stableblk.count_mismatches(&self.path("disk.raw")).expect("check"), 0);
    }
}

/// Waits until the guest has written through this back-end.
fn wait_for_load(server: &Server, check: impl Fn()) {
    let deadline = Instant::now() + TIME_LIMIT;
    while server.written_bytes() < LOAD {
        check();
        assert!(Instant::now() < deadline, "the guest writes no more");
        thread::sleep(Duration::from_millis(5));
    }
}

fn assert_endured(result: &Value) {
    assert_eq!((&result["errors"], &result["wrong"]), (&0.into(), &0.into()), "{result}");
    assert!(result["writes"].as_u64() > Some(200), "the guest hardly wrote: {result}");
}

#[test]
fn a_guest_survives_fifty_kills_of_its_back_end() {
    const KILLS: u32 = 50;
    let mut disks = Disks::new();
    let front_end = FrontEnd { qemu: Qemu::Installed, reconnect: "reconnect = \"1\"" };
    let result = disks.endure(Outage::Kill, KILLS, WRITING_AND_SWAPPING, front_end);
    println!("{KILLS} kills, {} requests done again: {result}", disks.resumed);
    assert_endured(&result);
    // how many that are depends on how fast the guest is beside the back-end
    assert!(disks.resumed > u64::from(KILLS / 5), "hardly anything was in flight");
    disks.assert_clean();
}

/// QEMU 7.2 waits whole seconds before it connects again, QEMU 10 for the configured time.
#[test]
fn a_guest_survives_planned_restarts_of_its_back_end() {
    const RESTARTS: u32 = 10;
    if !Qemu::Recent.is_installed() {
        return skip("no recent QEMU was unpacked, see scripts/install-prerequisites");
    }
    let mut disks = Disks::new();
    let front_end = FrontEnd { qemu: Qemu::Recent, reconnect: "reconnect-ms = \"10\"" };
    let result = disks.endure(Outage::Restart, RESTARTS, WRITING, front_end);
    println!("{RESTARTS} restarts, each time down for at most {:?}: {result}", disks.down);
    assert_endured(&result);
    assert_eq!(disks.resumed, 0, "what is drained needs not be done again");
    disks.assert_clean();
}
