//! The domain of `qemu-configs/`, its disk, its back-end and its guest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use guest::{BootFiles, Guest, Kernel, Qemu, Server, Stableblk, limited};
use tempfile::TempDir;

use crate::daemon::Libvirt;

/// For what takes some seconds on an idle machine.
const TIME_LIMIT: Duration = Duration::from_secs(300);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

const PROGRAM: &str = env!("CARGO_BIN_EXE_stableblk");
/// The file that users copy.
const XML: &str = "libvirt-domain.xml";
/// The name that it gives the domain.
pub(crate) const NAME: &str = "stableblk";

/// Counts its starts on the disk, behind the stamps. Then writes 4 MiB of another stamp in each
/// round, verifies them, writes the last MiB of the disk and prints their number, until something
/// goes wrong.
const ROUNDS: &str = "
    trap 'echo FAILED' EXIT
    set -e
    starts=$(dd if=/dev/vda bs=1M skip=4 count=1 | tr -d '\\0')
    starts=$((starts + 1))
    echo start $starts
    echo $starts | dd of=/dev/vda bs=1M seek=4 conv=sync,fsync
    round=0
    while true; do
        stamp write /dev/vda 4 $round
        stamp verify /dev/vda 4 $round
        mib=$(($(cat /sys/block/vda/size) / 2048))
        dd if=/bin/busybox of=/dev/vda bs=1M count=1 seek=$((mib - 1)) conv=fsync
        echo \"round $round on $mib MiB\"
        round=$((round + 1))
    done
";

/// A defined domain, and the back-end of its disk.
pub(crate) struct Domain {
    // first: libvirt ends before its files are removed
    libvirt: Libvirt,
    server: Option<Server>,
    stableblk: Stableblk,
    scratch: TempDir,
}

impl Domain {
    /// Serves a new protected disk of 256 MiB and defines the domain. None where there can be no
    /// libvirt.
    pub(crate) fn define() -> Option<Self> {
        Self::define_on(Qemu::Installed)
    }

    /// As [`Self::define`], to be run by `qemu`.
    pub(crate) fn define_on(qemu: Qemu) -> Option<Self> {
        let scratch = tempfile::tempdir().expect("temporary directory");
        // QEMU has a user of its own
        fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
        let libvirt = Libvirt::start(scratch.path(), qemu)?;
        let stableblk = Stableblk::new(PROGRAM);
        let mut domain = Self { libvirt, server: None, stableblk, scratch };
        domain.stableblk.create(&domain.image(), "256M").unwrap_or_else(|error| panic!("{error}"));
        domain.serve();
        let xml = domain.path("domain.xml");
        fs::write(&xml, domain.xml()).expect("write");
        domain.virsh(&["define", "--validate", &xml.to_string_lossy()]);
        Some(domain)
    }

    /// The file of `qemu-configs/` as a guest of this test: small, emulated, with a kernel of ours,
    /// and files for consoles.
    fn xml(&self) -> String {
        let guest = Guest {
            kernel: Kernel::Stable,
            programs: &[],
            config: XML,
            script: ROUNDS,
            modules: &[],
            memory_limit_mib: None,
            time_limit: TIME_LIMIT,
        };
        let boot = guest.boot_files(self.scratch.path()).unwrap_or_else(|error| panic!("{error}"));
        // libvirt hands what QEMU reads to QEMU's user
        let kernel = self.path("vmlinuz");
        fs::copy(&boot.kernel, &kernel).expect("copy");
        let BootFiles { initramfs, arguments, .. } = boot;
        let boot = format!(
            "<kernel>{}</kernel><initrd>{}</initrd><cmdline>{arguments}</cmdline>",
            kernel.display(),
            initramfs.display()
        );
        let consoles = ["console.log", "output.log"].map(|name| {
            let path = self.path(name);
            format!("<serial type='file'><source path='{}' append='on'/></serial>", path.display())
        });
        let mut xml = fs::read_to_string(guest::qemu_config(XML)).expect("read");
        for (from, to) in [
            ("<domain type='kvm'>", "<domain type='qemu'>"),
            ("<memory unit='MiB'>2048</memory>", "<memory unit='MiB'>512</memory>"),
            ("<boot dev='hd'/>", &boot),
            ("<console type='pty'/>", &consoles.concat()),
        ] {
            assert_eq!(xml.matches(from).count(), 1, "{from}");
            xml = xml.replace(from, to);
        }
        xml
    }

    /// Starts the back-end as `qemu-configs/README.md` does.
    pub(crate) fn serve(&mut self) {
        let control = self.control_socket();
        self.server = Some(self.serve_to(&self.libvirt, &["--control", &control.to_string_lossy()]));
    }

    /// Starts a back-end for the domain in `libvirt`.
    pub(crate) fn serve_to(&self, libvirt: &Libvirt, options: &[&str]) -> Server {
        let socket = libvirt.sockets().join("disk.sock");
        // the group kvm, as QEMU's user sees it
        let options = [&["--socket-group", "nogroup"], options].concat();
        self.stableblk.serve(&self.image(), &socket, &options).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs `stableblk ctl`, which must succeed.
    pub(crate) fn ctl(&self, arguments: &[&str]) {
        let mut ctl = Command::new(PROGRAM);
        let output = limited::output(ctl.arg("ctl").arg(self.control_socket()).args(arguments));
        let output = output.expect("start stableblk");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn control_socket(&self) -> PathBuf {
        self.libvirt.sockets().join("control.sock")
    }

    /// Stops the back-end with SIGTERM; it must end well.
    pub(crate) fn stop_back_end(&mut self) {
        let server = self.server.take().expect("it is running");
        server.stop().unwrap_or_else(|error| panic!("{error}"));
    }

    /// Kills the back-end.
    pub(crate) fn kill_back_end(&mut self) {
        drop(self.server.take().expect("it is running"));
    }

    /// Runs a command of virsh that must succeed, and returns its output.
    pub(crate) fn virsh(&self, arguments: &[&str]) -> String {
        self.libvirt.virsh(arguments)
    }

    /// Waits until the guest has said it did `more` rounds since now, or since its start.
    pub(crate) fn wait_for_rounds(&self, more: usize) {
        let before = self.rounds();
        self.wait_for("rounds", || self.rounds() >= before + more);
    }

    /// Waits until the guest did a round on a disk of `mib` mebibytes.
    pub(crate) fn wait_for_round_on(&self, mib: u32) {
        let round = format!(" on {mib} MiB\n");
        self.wait_for(&round, || self.output().contains(&round));
    }

    /// Rounds since the domain's first start.
    pub(crate) fn rounds(&self) -> usize {
        self.output().lines().filter(|line| line.starts_with("round ")).count()
    }

    /// Waits for a condition that the guest makes true, while the guest reports no failure.
    pub(crate) fn wait_for(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let failed = || self.output().contains("FAILED");
        let came = poll(|| failed() || condition());
        let console = || fs::read_to_string(self.path("console.log")).unwrap_or_default();
        let state = || self.libvirt.try_virsh(&["domstate", NAME]);
        assert!(
            came && !failed(),
            "waiting for {what}: the guest is {:?}; it printed:\n{}\nits console:\n{}",
            state(),
            self.output(),
            console()
        );
    }

    /// The output of the guest's script. The serial port's driver ends lines as terminals do.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.path("output.log")).unwrap_or_default()
    }

    /// Stops the back-end and counts the blocks that do not match their tuple.
    pub(crate) fn count_mismatches(&mut self) -> u64 {
        self.stop_back_end();
        self.stableblk.count_mismatches(&self.image()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The served image.
    pub(crate) fn image(&self) -> PathBuf {
        self.path("disk.raw")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }
}

/// Whether `condition` came true in time.
pub(crate) fn poll(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + TIME_LIMIT;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(POLL_INTERVAL);
    }
    true
}
