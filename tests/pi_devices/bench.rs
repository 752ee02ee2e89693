//! A guest with devices, and what the steps of its script reported.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use guest::{Guest, Kernel, Qemu};
use serde_json::Value;

const TIME_LIMIT: Duration = Duration::from_secs(600);
const PROGRAM: &str = env!("CARGO_BIN_EXE_stableblk");

/// Functions of the guest's script.
const PRELUDE: &str = r#"
    # block NSID: the namespace's block device; numbers are given in the order of probing, and nvme0c0n1 is a hidden path to it
    block() { for disk in /sys/block/nvme?n*; do [ "$(cat "$disk/nsid")" != "$1" ] || echo "/dev/$(basename "$disk")"; done; }

    # character NSID: its character device
    character() { block "$1" | sed s/nvme/ng/; }

    # report NAME STEP: labels the line of JSON on standard input
    report() { echo "$1 $2 $(cat)"; }

    # serve DEVICE OPTIONS...: until it takes connections
    serve() {
        rm -f /tmp/sock /tmp/log
        device=$1
        shift
        stableblk --socket-path /tmp/sock --blk-file "$device" --num-queues 2 "$@" 2>/tmp/log &
        server=$!
        until grep -qs serving /tmp/log; do
            kill -0 $server 2>/dev/null || { cat /tmp/log >&2; return 1; }
            sleep 0.05
        done
    }

    # stop: the log stays in /tmp/log
    stop() { kill -TERM $server && wait $server; }

    # failures: the log's reasons, as a JSON array
    failures() { echo "[$(sed -n 's/.* failed: \(.*\) queue=.*/"\1"/p' /tmp/log | tr '\n' ',' | sed 's/,$//')]"; }

    # counted COUNTER: its value when the last front-end left
    counted() { grep -o "$1=[0-9]*" /tmp/log | tail -n 1 | cut -d= -f2; }

    # failed: the number of failed requests in vhost-disk's report on standard input
    failed() { sed 's/.*"failed":\([0-9]*\).*/\1/'; }

    # is_clear FAILED: none, or more than a tenth of 1000. The rewriting thread may hardly run on a busy machine; then it is tried again.
    # By chance alone, a write that is hit one time in ten would get through 1000 times unhurt once in 10^45.
    is_clear() { [ "$1" = 0 ] || [ "$1" -gt 100 ]; }

    disk() { vhost-disk /tmp/sock "$@"; }
"#;

/// The reports of the steps of a guest's script.
#[derive(Debug)]
pub(crate) struct Reports(BTreeMap<(String, String), Value>);

impl Reports {
    pub(crate) fn get(&self, name: &str, step: &str) -> &Value {
        let report = self.0.get(&(name.to_owned(), step.to_owned()));
        report.unwrap_or_else(|| panic!("{name} did not report {step}: {self:#?}"))
    }

    /// Checks that no request of a step failed, or returned what it should not.
    pub(crate) fn assert_good(&self, name: &str, step: &str) {
        let actions = self.get(name, step).as_array().unwrap();
        for action in actions {
            assert_ne!(action["requests"], 0, "{name} {step}");
            assert_eq!(
                (&action["failed"], &action["pages_wrong"]),
                (&0.into(), &0.into()),
                "{name} {step}: {actions:?}"
            );
        }
    }

    /// The numbers of requests that failed, of each action of a step.
    pub(crate) fn failed(&self, name: &str, step: &str) -> Vec<u64> {
        let actions = self.get(name, step).as_array().unwrap();
        actions.iter().map(|action| action["failed"].as_u64().unwrap()).collect()
    }
}

/// A guest of these tests.
pub(crate) struct Bench<'a> {
    pub(crate) kernel: Kernel,
    pub(crate) qemu: Qemu,
    /// Kernel modules and their parameters.
    pub(crate) modules: &'a [&'a str],
}

impl Bench<'_> {
    /// Debian sid's kernel.
    pub(crate) const UNSTABLE: Self = Bench { kernel: Kernel::Unstable, qemu: Qemu::Installed, modules: &[] };
    /// Debian 12's, with its NVMe driver.
    pub(crate) const STABLE: Self = Bench { kernel: Kernel::Stable, modules: &["nvme"], ..Self::UNSTABLE };

    /// Boots the guest, with what QEMU's configuration `config` says, and runs `script`. `None`,
    /// and says so, when a part of it could not be fetched.
    pub(crate) fn run(&self, config: &str, script: &str) -> Option<Reports> {
        // a missing part that every other test needs too is no reason to skip this one
        if self.kernel == Kernel::Unstable && !self.kernel.is_installed() {
            return skip("Debian sid's kernel, whose io_uring takes protection information");
        }
        if !self.qemu.is_installed() {
            return skip(
                "a QEMU that moves all metadata where there is no protection information (8.1 or later)",
            );
        }
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("guest.cfg");
        std::fs::write(&path, config).unwrap();
        let guest = Guest {
            kernel: self.kernel,
            modules: self.modules,
            programs: &[Path::new(PROGRAM)],
            config: path.to_str().unwrap(),
            script: &format!("{PRELUDE}\n{script}"),
            memory_limit_mib: None,
            time_limit: TIME_LIMIT,
        };
        let output = guest.run_on(self.qemu, scratch.path()).unwrap_or_else(|error| panic!("{error}"));
        let parse = |line: &str| {
            let words: Vec<_> = line.splitn(3, ' ').collect();
            let &[name, step, json] = &words[..] else { panic!("{line}") };
            let value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {line}"));
            ((name.to_owned(), step.to_owned()), value)
        };
        Some(Reports(output.lines().map(parse).collect()))
    }
}

/// Says that a test does not run.
fn skip<T>(missing: &str) -> Option<T> {
    crate::skip::skip(&format!("scripts/install-prerequisites could not fetch {missing}"));
    None
}

/// `.ci/run` sets `CI`, where a run that skips all that it may skip shows nothing.
#[test]
fn in_ci_not_everything_is_skipped() {
    let in_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    assert!(
        !in_ci || Kernel::Unstable.is_installed(),
        "every test that may be skipped was: scripts/install-prerequisites could not fetch Debian sid's kernel"
    );
}
