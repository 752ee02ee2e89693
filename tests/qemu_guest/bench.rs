//! A protected disk, the guest on it, and what is left when the guest is gone.

use std::os::unix::fs::MetadataExt;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use guest::{Guest, Kernel, Server, Stableblk, make_tool_disk};
use serde_json::Value;
use tempfile::TempDir;

const TIME_LIMIT: Duration = Duration::from_secs(300);

/// A scratch directory with a protected disk, and whatever serves in it.
pub(crate) struct Bench {
    stableblk: Stableblk,
    scratch: TempDir,
    servers: Vec<Server>,
    modules: Vec<&'static str>,
    programs: Vec<&'static Path>,
}

impl Bench {
    /// Serves a new protected image at `disk.sock`, where the files of `qemu-configs/` expect it.
    pub(crate) fn new(options: &[&str]) -> Self {
        let scratch = tempfile::tempdir().expect("temporary directory");
        let stableblk = Stableblk::new(env!("CARGO_BIN_EXE_stableblk"));
        let mut bench =
            Self { stableblk, scratch, servers: Vec::new(), modules: Vec::new(), programs: Vec::new() };
        let image = bench.path("disk.raw");
        bench.stableblk.create(&image, "512M").unwrap_or_else(|error| panic!("{error}"));
        bench.serve("disk", options);
        bench
    }

    /// Adds a read-only disk with programs of the host, for the guest's `tool` command.
    pub(crate) fn with_tools(mut self, programs: &[&str]) -> Self {
        make_tool_disk(&self.path("read-only.raw"), programs).unwrap_or_else(|error| panic!("{error}"));
        self.serve("read-only", &["--read-only", "--integrity", "none"]);
        self
    }

    /// Has the guest load one more kernel module.
    pub(crate) fn with_module(mut self, module: &'static str) -> Self {
        self.modules.push(module);
        self
    }

    /// Has the guest bring one more program of the host, which its script can run as it runs its
    /// own.
    pub(crate) fn with_program(mut self, program: &'static str) -> Self {
        self.programs.push(Path::new(program));
        self
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Serves `NAME.raw` at `NAME.sock`.
    pub(crate) fn serve(&mut self, name: &str, options: &[&str]) {
        let (image, socket) = (self.path(&format!("{name}.raw")), self.path(&format!("{name}.sock")));
        let server = self.stableblk.serve(&image, &socket, options);
        self.servers.push(server.unwrap_or_else(|error| panic!("{error}")));
    }

    /// Boots the guest, runs `script`, and returns its output.
    pub(crate) fn run(&self, config: &str, memory_limit_mib: Option<u32>, script: &str) -> String {
        let guest = Guest {
            kernel: Kernel::Stable,
            programs: &self.programs,
            config,
            script,
            modules: &self.modules,
            memory_limit_mib,
            time_limit: TIME_LIMIT,
        };
        guest.run(self.scratch.path()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Stops all back-ends: then every tuple is in its place.
    pub(crate) fn stop(&mut self) {
        for server in self.servers.drain(..) {
            server.stop().unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// Space that a file of the scratch directory takes, in KiB.
    pub(crate) fn allocated_kib(&self, name: &str) -> u64 {
        self.path(name).metadata().expect("metadata").blocks() / 2
    }

    /// Stops all back-ends and counts the blocks of the protected disk that do not match their
    /// tuple.
    pub(crate) fn count_mismatches(mut self) -> u64 {
        self.stop();
        self.stableblk.count_mismatches(&self.path("disk.raw")).unwrap_or_else(|error| panic!("{error}"))
    }
}

/// The one value of JSON that a script printed.
pub(crate) fn json(output: &str) -> Value {
    serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"))
}
