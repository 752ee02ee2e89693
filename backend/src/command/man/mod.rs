//! `stableblk man`: writes manual pages, made from the texts of `--help`, for packages.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command};

use crate::storage::error::ImageError;

/// Write the manual pages: one for the program and one for each subcommand
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// The directory for the pages; it must exist
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Writes the pages of `program`.
pub fn run(args: &ManArgs, program: Command) -> Result<ExitCode, ImageError> {
    clap_mangen::generate_to(program, &args.directory)
        .map_err(ImageError::io("write manual pages to", &args.directory))?;
    Ok(ExitCode::SUCCESS)
}
