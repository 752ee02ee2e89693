//! `stableblk completions`: a script by which a shell completes the command line.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Command, ValueEnum};
use clap_complete::{Shell, generate};

use crate::storage::error::ImageError;

/// Print the script by which a shell completes options and subcommands
///
/// `make install` installs it. By hand, bash takes it from the file
/// `/usr/share/bash-completion/completions/stableblk`.
#[derive(Debug, Clone, Copy, Args)]
#[command(after_help = "Exit status: 0 when the script was printed, 1 when it could not be written.")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: ShellName,
}

/// The shells that Debian has.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum ShellName {
    Bash,
    Zsh,
    Fish,
}

/// Prints the script for `program`.
pub fn run(args: CompletionsArgs, mut program: Command) -> Result<ExitCode, ImageError> {
    let shell = match args.shell {
        ShellName::Bash => Shell::Bash,
        ShellName::Zsh => Shell::Zsh,
        ShellName::Fish => Shell::Fish,
    };
    // in memory first: the generator panics where standard output is closed
    let mut script = Vec::new();
    generate(shell, &mut program, "stableblk", &mut script);
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(&script)
        .and_then(|()| stdout.flush())
        .map_err(ImageError::io("write to", Path::new("standard output")))?;
    Ok(ExitCode::SUCCESS)
}
