//! Syncs that fail although the storage is sound, as those of storage do that loses what it was
//! given.

use std::path::Path;
use std::process::Command;

use crate::skip::skip;

/// Which syncs fail. Those of a ring do not.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which<'a> {
    /// The syncs of the data of this file.
    Of(&'a Path),
    /// The syncs of each thread with these numbers, from 1 on, and all after them: of data, and of
    /// data and attributes.
    From { data: u32, whole: u32 },
}

/// `command`, whose syncs fail. `None` where there is no strace, or it may trace nothing: the test
/// is skipped then.
pub(crate) fn with_failing_syncs(command: &Command, which: Which<'_>) -> Option<Command> {
    let tried = strace(which).arg("true").output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        skip("there is no strace, or it may trace nothing");
        return None;
    }
    let mut traced = strace(which);
    traced.arg(command.get_program()).args(command.get_args());
    Some(traced)
}

/// It does not come between us and the process: that is our child, and the tracer its own.
fn strace(which: Which<'_>) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["--daemonize", "--follow-forks", "--output=/dev/null", "--trace=fdatasync,fsync"]);
    match which {
        Which::Of(path) => strace.args(["-e", "inject=fdatasync:error=EIO", "--trace-path"]).arg(path),
        Which::From { data, whole } => {
            let data = format!("inject=fdatasync:error=EIO:when={data}+");
            let whole = format!("inject=fsync:error=EIO:when={whole}+");
            strace.args(["-e", &data, "-e", &whole])
        }
    };
    strace
}
