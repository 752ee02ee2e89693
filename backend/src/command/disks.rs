//! The disks of a host, found by their control sockets.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use crate::control::client::{ClientError, ask};
use crate::control::protocol::{ControlRequest, DiskStatus};
use crate::report;

/// Where `packaging/stableblk@.service` makes its sockets.
const DIRECTORY: &str = "/run/stableblk";
/// The end of the name of a control socket. A socket of another name may be that of a front-end,
/// and a connection would keep the guest from it.
const SUFFIX: &str = ".control";
/// Disks that are asked at the same time.
const AT_ONCE: usize = 32;
/// The most time for all disks together. A scrape by Prometheus waits for ten seconds.
const ALL_LIMIT: Duration = Duration::from_secs(8);

/// The control sockets to ask.
#[derive(Debug, Clone, Args)]
pub(super) struct DisksArgs {
    /// The directory of control sockets: those whose name ends with `.control`. Can be given
    /// several times
    #[arg(long, value_name = "DIRECTORY", default_value = DIRECTORY)]
    control_directory: Vec<PathBuf>,
    /// A control socket elsewhere. Can be given several times
    #[arg(long, value_name = "SOCKET")]
    control: Vec<PathBuf>,
    /// The longest time to wait for the reply of one disk, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=8))]
    timeout: u64,
}

/// A disk, as its control socket shows it.
#[derive(Debug)]
pub(super) struct FoundDisk {
    /// Its name: that of the control socket without its ending, or the socket's path where several
    /// have that name.
    pub(super) name: String,
    /// The control socket.
    pub(super) socket: PathBuf,
    /// The status, or why there is none.
    pub(super) status: Result<DiskStatus, String>,
}

impl FoundDisk {
    /// The disk whose control socket has sent `status`.
    pub(super) fn new(socket: &Path, status: DiskStatus) -> Self {
        Self { name: short_name(socket), socket: socket.to_owned(), status: Ok(status) }
    }
}

impl FoundDisk {
    /// The name of the front-end's program, if one is connected and the name is known.
    pub(super) fn guest(&self) -> Option<String> {
        let pid = self.status.as_ref().ok()?.frontend.as_ref()?.pid?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some(name.trim_end().to_owned())
    }
}

impl DisksArgs {
    /// The disks of the host, in the order of their names. It takes no longer than the limit of one
    /// disk for the first of them, nor than [`ALL_LIMIT`] for all.
    pub(super) fn find(&self) -> Vec<FoundDisk> {
        let sockets = named(self.sockets());
        let deadline = Instant::now() + ALL_LIMIT;
        let limit = Duration::from_secs(self.timeout);
        let found = Mutex::new(Vec::with_capacity(sockets.len()));
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..sockets.len().min(AT_ONCE) {
                let work = || {
                    while let Some((name, socket)) = sockets.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let left = deadline.saturating_duration_since(Instant::now());
                        let status = status_of(socket, limit.min(left));
                        if let Err(reason) = &status {
                            tracing::debug!("no status of {}: {reason}", socket.display());
                        }
                        let disk = FoundDisk { name: name.clone(), socket: socket.clone(), status };
                        found.lock().unwrap_or_else(PoisonError::into_inner).push(disk);
                    }
                };
                // without a thread, the others do its work
                let _ = thread::Builder::new().name("ask".to_owned()).spawn_scoped(scope, work);
            }
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }

    /// The control sockets that there are.
    fn sockets(&self) -> Vec<PathBuf> {
        let in_directories = self.control_directory.iter().flat_map(|directory| {
            sockets_in(directory).unwrap_or_else(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("cannot read {}: {error}", directory.display());
                }
                Vec::new()
            })
        });
        let mut sockets: Vec<_> = in_directories.chain(self.control.iter().cloned()).collect();
        sockets.sort();
        sockets.dedup();
        sockets
    }
}

fn sockets_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut sockets = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_control = entry.file_name().to_str().is_some_and(|name| name.ends_with(SUFFIX));
        if is_control && entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            sockets.push(entry.path());
        }
    }
    Ok(sockets)
}

fn short_name(socket: &Path) -> String {
    let name = socket.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.strip_suffix(SUFFIX).unwrap_or(&name).to_owned()
}

/// Gives each socket a name that no other has.
fn named(sockets: Vec<PathBuf>) -> Vec<(String, PathBuf)> {
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for socket in &sockets {
        *uses.entry(short_name(socket)).or_default() += 1;
    }
    let name = |socket: &Path| {
        let short = short_name(socket);
        if uses[&short] > 1 { socket.display().to_string() } else { short }
    };
    sockets.into_iter().map(|socket| (name(&socket), socket)).collect()
}

fn status_of(socket: &Path, limit: Duration) -> Result<DiskStatus, String> {
    let status = ask(socket, &ControlRequest::Status, limit).map_err(|error| reason(&error))?;
    let status = serde_json::from_value(status).map_err(|error| format!("an unknown reply: {error}"))?;
    plausible(&status).map(|()| status)
}

fn reason(error: &ClientError) -> String {
    match error {
        ClientError::Late { limit, .. } => format!("no reply within {:.1} s", limit.as_secs_f64()),
        other => report::chain(other),
    }
}

/// Refuses a status that stableblk never sends: it would spoil the output of all disks.
fn plausible(status: &DiskStatus) -> Result<(), String> {
    const QUEUES_MAX: usize = 256;
    const BUCKETS_MAX: usize = 256;
    const TEXT_MAX: usize = 4096;
    let indices = status.queues.iter().map(|queue| queue.queue);
    let are_ordered = indices.clone().zip(indices.skip(1)).all(|(one, next)| one < next);
    if status.queues.len() > QUEUES_MAX || !are_ordered {
        return Err("an implausible status: its queues are too many, or out of order".to_owned());
    }
    if status.rewrites.ranges.len() > 4096 {
        return Err("an implausible status: its ranges are too many".to_owned());
    }
    let properties = &status.properties;
    let texts = [&status.program.version, &properties.image, &properties.device];
    if texts.iter().any(|text| text.len() > TEXT_MAX) {
        return Err("an implausible status: a text is too long".to_owned());
    }
    let of_queues = status.queues.iter().flat_map(|queue| queue.done.kinds().map(|(_, latency)| latency));
    let of_log = status.tag_log.iter().flat_map(|log| [&log.commits, &log.checkpoints]);
    for latency in of_queues.chain(of_log) {
        let mut counts = latency.buckets.iter().map(|bucket| bucket.count);
        let sum = counts.try_fold(0u64, u64::checked_add);
        if latency.buckets.len() > BUCKETS_MAX || sum.is_none_or(|sum| sum >= 1 << 53) {
            return Err("an implausible status: a histogram counts too much".to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_where_they_can_be() {
        let sockets = ["/a/one.control", "/a/two.control", "/b/two.control", "/c/three"].map(PathBuf::from);
        let names: Vec<_> = named(sockets.to_vec()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["one", "/a/two.control", "/b/two.control", "three"]);
    }
}
