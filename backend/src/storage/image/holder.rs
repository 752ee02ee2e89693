//! The process that has a file locked.

use std::fmt;

use procfs::process::{ProcState, Process, StatFlags};

/// The holder of a file's lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A process.
    Process {
        /// The id of the process.
        pid: i32,
        /// The name of its program.
        name: String,
    },
    /// A process that was ended while it had I/O under way, which has not finished.
    Exiting {
        /// The id that it has, or had.
        pid: i32,
    },
    /// The kernel itself, for a mount or the like.
    Kernel,
    /// A holder that `/proc/locks` does not show: another host, or a process outside this PID
    /// namespace.
    Unknown,
}

impl Holder {
    /// The action that frees the lock.
    #[must_use]
    pub fn cure(&self) -> &'static str {
        match self {
            Self::Process { .. } | Self::Unknown => "stop that first",
            Self::Exiting { .. } => "try again when its I/O has ended",
            Self::Kernel => "unmount or release it first",
        }
    }

    pub(super) fn of_process(pid: i32) -> Self {
        let stat = Process::new(pid).and_then(|process| process.stat());
        let Ok(stat) = stat else {
            return Self::Exiting { pid };
        };
        let dead = matches!(stat.state(), Ok(ProcState::Zombie | ProcState::Dead));
        let exiting = StatFlags::from_bits_truncate(stat.flags).contains(StatFlags::PF_EXITING);
        if dead || exiting { Self::Exiting { pid } } else { Self::Process { pid, name: stat.comm } }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name } => write!(f, "{name} (pid {pid})"),
            Self::Exiting { pid } => write!(f, "a process that is exiting (pid {pid})"),
            Self::Kernel => f.write_str("the kernel, as by a mount"),
            Self::Unknown => f.write_str("another process"),
        }
    }
}
