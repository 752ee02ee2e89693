//! A libvirt for one test alone.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use guest::{Qemu, limited};

use crate::domain::poll;
use crate::skip::skip;

/// No command of virsh takes that long; one that does has hung.
const COMMAND_LIMIT: &str = "300s";

/// A running libvirtd; it and its domains end when this is dropped, or when the test is killed.
pub(crate) struct Libvirt {
    /// Waits for the end of its standard input.
    namespace: Child,
    run: PathBuf,
}

impl Libvirt {
    /// Starts a libvirt that runs `qemu` and writes below `scratch` only. Returns none, and prints
    /// the reason, if it cannot run.
    pub(crate) fn start(scratch: &Path, qemu: Qemu) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("only root can give libvirt namespaces of its own");
            return None;
        }
        if !qemu.is_installed() {
            skip("scripts/install-prerequisites could not get the QEMU of Debian's backports");
            return None;
        }
        let run = scratch.join("run");
        for name in ["libvirt", "stableblk"] {
            fs::create_dir_all(run.join(name)).expect("directory");
        }
        let log = scratch.join("libvirtd.log");
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--mount", "--pid", "--uts", "--fork", "--mount-proc"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/libvirt/private-libvirtd"))
            .arg(scratch)
            .args(qemu.tree())
            .stdin(Stdio::piped())
            .stderr(File::create(&log).expect("log"));
        let mut namespace = unshare.spawn().expect("start unshare");
        let socket = run.join("libvirt/libvirt-sock");
        let ended = poll(|| !matches!(namespace.try_wait(), Ok(None)) || socket.exists());
        let libvirt = Self { namespace, run };
        let log = || fs::read_to_string(&log).unwrap_or_default();
        assert!(ended && socket.exists(), "libvirtd: run scripts/install-prerequisites\n{}", log());
        Some(libvirt)
    }

    /// Where sockets lie that the domain finds in `/run/stableblk`.
    pub(crate) fn sockets(&self) -> PathBuf {
        self.run.join("stableblk")
    }

    /// How others connect to it.
    pub(crate) fn uri(&self) -> String {
        format!("qemu+unix:///system?socket={}/libvirt/libvirt-sock", self.run.display())
    }

    /// Runs one command of virsh, and returns its output or its error.
    pub(crate) fn try_virsh(&self, arguments: &[&str]) -> Result<String, String> {
        let mut virsh = Command::new("timeout");
        virsh.args([COMMAND_LIMIT, "virsh", "-q", "-c", &self.uri()]).args(arguments);
        let output = limited::output(&mut virsh).expect("start virsh");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("virsh {arguments:?}: {}: {}", output.status, text(&output.stderr)))
        }
    }

    /// Runs one command of virsh that must succeed, and returns its output.
    pub(crate) fn virsh(&self, arguments: &[&str]) -> String {
        self.try_virsh(arguments).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        drop(self.namespace.stdin.take());
        if limited::wait(&mut self.namespace).is_err() {
            limited::end(&mut self.namespace);
        }
    }
}
