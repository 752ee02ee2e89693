//! Programs of the system's.

use std::path::Path;
use std::process::Command;

use guest::limited;

/// The output of a program, or the reason why it failed.
pub(crate) fn output_of(program: &str, args: &[&Path]) -> Result<String, String> {
    // where these are need not be on the path of who runs the tests
    let path = "/usr/sbin:/sbin:/usr/bin:/bin";
    let output = limited::output(Command::new(program).args(args).env("PATH", path));
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Whether a program ended well.
pub(crate) fn run(program: &str, args: &[&Path]) -> bool {
    output_of(program, args).is_ok()
}
