//! `stableblk check`: every block against its tuple.

mod findings;
mod recovered;
mod report;

use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use integrity::sidecar::{is_adopted, mismatches};

use self::findings::Findings;
use self::recovered::Recovered;
use self::report::Report;
use super::scan::{Chunk, Unreadable, Visitor, scan};
use super::{ImageArgs, print};
use crate::error::Error;
use crate::image::{Access, DirectIo, Image};
use crate::sidecar_file::{SidecarFile, load_error};

/// Verify every block of an image against its tuple
///
/// An image whose writer was cut off is checked as recovery would leave it. An LBA counts intervals of the image, 4096 bytes each unless the sidecar was made with `--interval 512`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Exit status: 0 when every block matches, 1 when some do not or cannot be read, 2 when the check was not possible."
)]
pub struct CheckArgs {
    #[command(flatten)]
    image: ImageArgs,
    /// Recover an image whose writer was cut off, as serving it would, and check it then
    #[arg(long)]
    recover: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the blocks that do not match; exit code 1 when there are any. An error means that the check was not possible.
pub fn run(args: &CheckArgs) -> Result<ExitCode, Error> {
    let access = if args.recover { Access::ReadWrite } else { Access::Read };
    let image = Image::open(&args.image.image, access, DirectIo::WherePossible)?;
    let mut sidecar = SidecarFile::open(&args.image.sidecar_path(), &image, access)?;
    let path = sidecar.path().to_owned();
    let recovered = if args.recover { Recovered::now(&mut sidecar) } else { Recovered::dry_run(&sidecar) }
        .map_err(load_error("recover", &path))?;
    let check = Check { image: &image, sidecar: &sidecar, recovered: &recovered, findings: Mutex::default() };
    scan(&image, sidecar.profile(), "checking", &check)?;
    let findings = check.findings.into_inner().unwrap_or_else(PoisonError::into_inner);
    let all_match = findings.all_match();
    print(&Report::new(&image, &sidecar, recovered.outcome(), findings), args.json)?;
    Ok(ExitCode::from(u8::from(!all_match)))
}

/// Goes over the image.
struct Check<'a> {
    image: &'a Image,
    sidecar: &'a SidecarFile,
    recovered: &'a Recovered,
    findings: Mutex<Findings>,
}

impl Check<'_> {
    fn find(&self, add: impl FnOnce(&mut Findings)) {
        // findings are whole at any time
        add(&mut self.findings.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Visitor for Check<'_> {
    /// Where both files have holes, and recovery changes nothing, the blocks are unwritten and zero: nothing has to be read to know
    /// that they match.
    fn next_work(&self, offset: u64) -> Result<Option<u64>, Error> {
        let Self { image, sidecar, recovered, .. } = self;
        let data = image.next_data(offset).map_err(Error::io("find the holes of", image.path()))?;
        if data == Some(offset) {
            return Ok(data);
        }
        let interval_size = sidecar.profile().interval_size() as u64;
        let interval = offset / interval_size;
        let written =
            sidecar.next_written(interval).map_err(Error::io("find the holes of", sidecar.path()))?;
        let changed = recovered.next_changed(sidecar.layout(), interval);
        let tuples = written.into_iter().chain(changed).map(|interval| interval * interval_size);
        Ok(data.into_iter().chain(tuples).min())
    }

    fn visit(&self, chunk: Chunk<'_>) -> Result<(), Error> {
        let profile = self.sidecar.profile();
        let Chunk { first_interval, data, tuples } = chunk;
        self.recovered
            .read_tuples(self.sidecar, first_interval, tuples)
            .map_err(Error::io("read", self.sidecar.path()))?;
        let adopted = (first_interval..)
            .zip(tuples.chunks_exact(profile.tuple_size()))
            .filter(|(_, tuple)| is_adopted(profile, tuple));
        let mismatches = mismatches(profile, first_interval, data, tuples)
            .expect("a chunk has room for the tuples of its data");
        self.find(|findings| {
            mismatches.for_each(|mismatch| findings.add_mismatch(&mismatch));
            adopted.for_each(|(lba, _)| findings.add_adopted(lba));
        });
        Ok(())
    }

    fn unreadable(&self, unreadable: Unreadable) -> Result<(), Error> {
        self.find(|findings| findings.add_unreadable(&unreadable.intervals));
        Ok(())
    }
}
