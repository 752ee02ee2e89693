//! One guest on one disk, and what is left of its guards.

use std::{error::Error, fmt, time::Duration};

use guest::{Guest, Kernel, Stableblk};
use serde_json::{Map, Value};

pub(crate) const QEMU_CONFIG: &str = "single-disk.cfg";
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// Rewrites on the second half of the disk; then writes, reads back and swaps on the first.
/// The output lacks the steps that fail: the defect may break any of them.
const SCRIPT: &str = r#"
    rewriter /dev/vda $((128 << 20)) 1000 65536 8
    stamp write /dev/vda 16 1 && stamp verify /dev/vda 16 1 && echo '{"mib_read_back":16}'
    mkswap /dev/vda $((128 << 10)) >&2 && swapon /dev/vda && swap-stress 96 1
    exit 0
"#;
/// Less than `swap-stress` fills.
const GUEST_MEMORY_MIB: u32 = 96;

/// The results of a run.
#[derive(Debug)]
pub(crate) struct Run {
    command: String,
    /// The fields of all lines of JSON that the guest's programs printed.
    results: Map<String, Value>,
    /// Writes whose data the guest had changed when they completed.
    rewritten: u64,
    mismatched_blocks: u64,
}

impl Run {
    pub(crate) const TABLE_HEAD: &str = "\
run                         writes done   rewritten   guest errors   blocks whose guard no longer matches
-------------------------   -----------   ---------   ------------   ------------------------------------";

    pub(crate) fn new(stableblk: &Stableblk, options: &[&str]) -> Result<Self, Box<dyn Error>> {
        let scratch = tempfile::tempdir()?;
        let image = scratch.path().join("disk.raw");
        stableblk.create(&image, "256M")?;
        let control = scratch.path().join("control");
        let own = ["--rewrite-check", "1", "--control", control.to_str().unwrap_or_default()];
        let server = stableblk.serve(&image, &scratch.path().join("disk.sock"), &[options, &own].concat())?;
        let guest = Guest {
            kernel: Kernel::Stable,
            programs: &[],
            config: QEMU_CONFIG,
            script: SCRIPT,
            modules: &[],
            memory_limit_mib: Some(GUEST_MEMORY_MIB),
            time_limit: TIME_LIMIT,
        };
        let output = guest.run(scratch.path())?;
        let status = stableblk.status(&control)?;
        server.stop()?;
        Ok(Self {
            command: [&["stableblk"], options].concat().join(" "),
            results: output
                .lines()
                .filter_map(|line| serde_json::from_str::<Map<_, _>>(line).ok())
                .flatten()
                .collect(),
            rewritten: rewritten(&status),
            mismatched_blocks: stableblk.count_mismatches(&image)?,
        })
    }

    pub(crate) fn lost_guards(&self) -> bool {
        self.mismatched_blocks > 0
    }

    /// Whether every guard matches and the guest could do all it tried; or what was not so.
    pub(crate) fn all_went_well(&self) -> Result<(), &'static str> {
        let checks = [
            (self.mismatched_blocks == 0, "guards were lost"),
            (self.result("writes") > Some(0) && self.guest_errors() == Some(0), "the guest saw errors"),
            (self.result("mib_read_back") > Some(0), "data did not read back as written"),
            (
                self.result("pages_wrong") == Some(0) && self.result("pages_swapped_in") > Some(0),
                "swapping failed",
            ),
        ];
        checks.into_iter().find(|(well, _)| !well).map_or(Ok(()), |(_, reason)| Err(reason))
    }

    /// The work of the guest besides rewriting.
    pub(crate) fn other_work(&self) -> String {
        let of = |name| self.result(name).unwrap_or_default();
        format!(
            "wrote {} MiB and read them back unchanged, and swapped out {} pages with {} wrong of {} verified",
            of("mib_read_back"),
            of("pages_swapped_out"),
            of("pages_wrong"),
            of("pages_verified"),
        )
    }

    fn result(&self, name: &str) -> Option<u64> {
        self.results.get(name)?.as_u64()
    }

    fn guest_errors(&self) -> Option<u64> {
        Some(self.result("write_errors")? + self.result("read_errors")?)
    }
}

/// The writes of a status whose data the guest had changed when they completed.
fn rewritten(status: &Value) -> u64 {
    let queues = status["queues"].as_array().into_iter().flatten();
    queues.filter_map(|queue| queue["rewrites"]["found"].as_u64()).sum()
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cell = |count: Option<u64>| count.map_or("none".to_owned(), |count| count.to_string());
        let (writes, errors) = (cell(self.result("writes")), cell(self.guest_errors()));
        let (command, rewritten) = (&self.command, self.rewritten);
        write!(f, "{command:25}{writes:>14}{rewritten:>12}{errors:>15}{:>39}", self.mismatched_blocks)
    }
}
