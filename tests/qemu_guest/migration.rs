//! A guest moves from one QEMU to the next while it writes, each with a stableblk of its own on the
//! one image.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use guest::{Guest, Kernel, MovingGuest, Qemu, Server, Stableblk};
use tempfile::TempDir;

use crate::bench::json;
use crate::skip::skip;

const MOVES: u32 = 10;
const QUEUES: &str = "4";
/// The bytes that each back-end must have written before the guest moves.
const LOAD: u64 = 512 << 10;
const TIME_LIMIT: Duration = Duration::from_secs(300);
/// Stamped slots, written and read at random by 32 threads until the second disk says that it is
/// enough; then all are read.
const SCRIPT: &str = "endure /dev/vda 1024 32 /dev/vdb";

/// One image, and a directory for each pair of QEMU and stableblk.
struct Hosts {
    stableblk: Stableblk,
    scratch: TempDir,
    count: u32,
}

impl Hosts {
    fn new() -> Self {
        let hosts = Self {
            stableblk: Stableblk::new(env!("CARGO_BIN_EXE_stableblk")),
            scratch: tempfile::tempdir().expect("temporary directory"),
            count: 0,
        };
        hosts.stableblk.create(&hosts.path("disk.raw"), "512M").expect("image");
        let stop = File::create_new(hosts.path("stop.raw")).expect("image");
        stop.set_len(1 << 20).expect("image");
        hosts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A new host, with the image served.
    fn next(&mut self, options: &[&str]) -> (PathBuf, Server) {
        self.count += 1;
        let directory = self.path(&self.count.to_string());
        fs::create_dir(&directory).expect("directory");
        let options = [&["--num-queues", QUEUES], options].concat();
        let server = self.stableblk.serve(&self.path("disk.raw"), &directory.join("disk.sock"), &options);
        (directory, server.unwrap_or_else(|error| panic!("{error}")))
    }

    /// `multi-queue.cfg` with the disk by which the test stops the guest's load.
    fn config(&self) -> PathBuf {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let config =
            fs::read_to_string(repository.join("qemu-configs/multi-queue.cfg")).expect("configuration");
        let config = format!(
            "{config}\n[drive \"stop\"]\n if = \"none\"\n format = \"raw\"\n readonly = \"on\"\n file = \"{}\"\n\
             [device \"disk1\"]\n driver = \"virtio-blk-pci\"\n drive = \"stop\"\n",
            self.path("stop.raw").display()
        );
        let path = self.path("migration.cfg");
        fs::write(&path, config).expect("configuration");
        path
    }

    fn tell_to_stop(&self) {
        let stop = File::options().write(true).open(self.path("stop.raw"));
        stop.and_then(|stop| stop.write_all_at(&[1; 512], 0)).expect("stop");
    }
}

/// Waits until the guest has written through this back-end.
fn wait_for_load(server: &Server) {
    let deadline = Instant::now() + TIME_LIMIT;
    let before = server.written_bytes();
    while server.written_bytes() < before + LOAD {
        assert!(Instant::now() < deadline, "the guest writes no more");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_guest_under_load_moves_ten_times() {
    // QEMU 7.2 loses writes of an emulated processor in a migration, with disks of its own too
    if !Qemu::Recent.is_installed() {
        return skip("no QEMU of Debian's backports was unpacked, see scripts/install-prerequisites");
    }
    let mut hosts = Hosts::new();
    let config = hosts.config();
    let guest = Guest {
        kernel: Kernel::Stable,
        programs: &[],
        config: config.to_str().expect("UTF-8"),
        script: SCRIPT,
        modules: &[],
        memory_limit_mib: Some(160),
        time_limit: TIME_LIMIT,
    };
    let (directory, mut server) = hosts.next(&[]);
    let moving = MovingGuest::boot(&guest, Qemu::Recent, hosts.scratch.path(), &directory);
    let mut moving = moving.unwrap_or_else(|error| panic!("{error}"));
    wait_for_load(&server);

    // twice it comes to nothing, and the guest stays
    let (nowhere, unused) = hosts.next(&["--incoming"]);
    moving.cancel_migration(&nowhere).unwrap_or_else(|error| panic!("{error}"));
    unused.stop().unwrap_or_else(|error| panic!("{error}"));
    wait_for_load(&server);
    let (nowhere, unused) = hosts.next(&["--incoming"]);
    moving.fail_migration(&nowhere).unwrap_or_else(|error| panic!("{error}"));
    unused.stop().unwrap_or_else(|error| panic!("{error}"));
    wait_for_load(&server);

    let mut downtimes = Vec::new();
    for _ in 0..MOVES {
        let (directory, destination) = hosts.next(&["--incoming"]);
        downtimes.push(moving.migrate(&directory).unwrap_or_else(|error| panic!("{error}")));
        wait_for_load(&destination);
        server.stop().unwrap_or_else(|error| panic!("{error}"));
        server = destination;
    }
    hosts.tell_to_stop();
    let result = json(&moving.finish().unwrap_or_else(|error| panic!("{error}")));
    server.stop().unwrap_or_else(|error| panic!("{error}"));
    println!("{MOVES} migrations, downtimes {downtimes:?}: {result}");
    assert_eq!((&result["errors"], &result["wrong"]), (&0.into(), &0.into()), "{result}");
    assert!(result["writes"].as_u64() > Some(200), "the guest hardly wrote: {result}");
    assert_eq!(hosts.stableblk.count_mismatches(&hosts.path("disk.raw")).expect("check"), 0);
}
