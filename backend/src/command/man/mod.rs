//! `stableblk man`: writes manual pages, made from the texts of `--help`, for packages.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Command};
use clap_mangen::Man;
use roff::Roff;

use crate::storage::error::ImageError;

mod examples;
mod exit_status;
mod files;
mod see_also;

pub use examples::EXAMPLES;

/// Write the manual pages: one for the program and one for each subcommand
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// The directory for the pages; it must exist
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,
}

/// Writes the pages of `program`.
pub fn run(args: &ManArgs, program: Command) -> Result<ExitCode, ImageError> {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    write_pages(&Place { above: None, command: &program }, &args.directory)
        .map_err(ImageError::io("write manual pages to", &args.directory))?;
    Ok(ExitCode::SUCCESS)
}

/// A command, and where it is among the others.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    above: Option<&'a Place<'a>>,
    command: &'a Command,
}

impl<'a> Place<'a> {
    /// The name of the page: the words of the command line, joined by hyphens.
    fn page(&self) -> &'a str {
        self.command.get_display_name().unwrap_or_else(|| self.command.get_name())
    }

    /// The subcommands on the way here, such as `ctl` and `scrub`.
    fn words(&self) -> Vec<&'a str> {
        let Some(above) = self.above else { return Vec::new() };
        let mut words = above.words();
        words.push(self.command.get_name());
        words
    }

    /// The commands below this one that have pages.
    fn below(&self) -> impl Iterator<Item = &'a Command> {
        self.command.get_subcommands().filter(|command| !command.is_hide_set())
    }
}

fn write_pages(place: &Place<'_>, directory: &Path) -> io::Result<()> {
    for command in place.below() {
        write_pages(&Place { above: Some(place), command }, directory)?;
    }
    fs::write(directory.join(format!("{}.1", place.page())), page(place)?)
}

/// The page in roff: the sections of `clap_mangen`, and ours.
fn page(place: &Place<'_>) -> io::Result<Vec<u8>> {
    let man = Man::new(place.command.clone()).manual("stableblk manual");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if place.below().next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut sections = Roff::new();
    exit_status::write(&mut sections, place);
    examples::write(&mut sections, place);
    files::write(&mut sections, place);
    see_also::write(&mut sections, place);
    sections.to_writer(&mut page)?;
    Ok(page)
}
