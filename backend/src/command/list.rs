//! `stableblk list`: all disks of this host.

use std::fmt::{self, Display};
use std::process::ExitCode;

use clap::Args;
use indicatif::BinaryBytes;
use serde::Serialize;

use super::disks::{DisksArgs, FoundDisk};
use super::print;
use crate::control::log::escape;
use crate::control::protocol::DiskStatus;
use crate::storage::error::ImageError;

/// Show all disks of this host, found by their control sockets
///
/// Exit status: 0 all disks have replied, 1 some have not.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    #[command(flatten)]
    disks: DisksArgs,
    /// Print the status of each disk as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the disks.
pub fn run(args: &ListArgs) -> Result<ExitCode, ImageError> {
    let disks = DiskList(args.disks.find().into_iter().map(ListedDisk::from).collect());
    let is_any_silent = disks.0.iter().any(|disk| disk.status.is_none());
    print(&disks, args.json)?;
    Ok(if is_any_silent { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[derive(Debug, Serialize)]
struct DiskList(Vec<ListedDisk>);

#[derive(Debug, Serialize)]
struct ListedDisk {
    disk: String,
    socket: String,
    /// The name of the program of the front-end; none while none is connected, or it is unknown.
    guest: Option<String>,
    status: Option<DiskStatus>,
    /// Why there is no status.
    error: Option<String>,
}

impl From<FoundDisk> for ListedDisk {
    fn from(found: FoundDisk) -> Self {
        let guest = found.guest();
        let socket = found.socket.display().to_string();
        let (status, error) = match found.status {
            Ok(status) => (Some(status), None),
            Err(error) => (None, Some(error)),
        };
        Self { disk: found.name, socket, guest, status, error }
    }
}

impl ListedDisk {
    /// The cells of its row.
    fn cells(&self) -> [String; 9] {
        let Some(status) = &self.status else {
            let error = self.error.as_deref().unwrap_or_default();
            let [device, guest, depth, requests, errors, damage] = [(); 6].map(|()| "-".to_owned());
            return [
                self.disk.clone(),
                "-".to_owned(),
                device,
                guest,
                depth,
                requests,
                errors,
                damage,
                error.to_owned(),
            ];
        };
        let pid = status.frontend.as_ref().and_then(|frontend| frontend.pid);
        let guest = match (&status.frontend, &self.guest, pid) {
            (None, ..) => "none".to_owned(),
            (Some(_), Some(guest), Some(pid)) => format!("{guest}/{pid}"),
            (Some(_), _, pid) => pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string()),
        };
        [
            self.disk.clone(),
            BinaryBytes(status.properties.bytes).to_string(),
            status.properties.device.clone(),
            guest,
            status.in_flight().to_string(),
            status.requests().to_string(),
            status.failed().to_string(),
            status.damage.map_or_else(|| "-".to_owned(), |damage| damage.to_string()),
            status.properties.image.clone(),
        ]
    }
}

impl Display for DiskList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HEAD: [&str; 9] =
            ["DISK", "SIZE", "DEVICE", "GUEST", "DEPTH", "REQUESTS", "ERRORS", "DAMAGE", "IMAGE"];
        if self.0.is_empty() {
            return writeln!(
                f,
                "no control sockets were found: start disks with `--control DIRECTORY/NAME.control`"
            );
        }
        let rows: Vec<_> = self.0.iter().map(ListedDisk::cells).collect();
        let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(|cell| escape(cell))).collect();
        let width = |column: usize| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.chain([HEAD[column].len()]).max().unwrap_or(0)
        };
        let head = HEAD.map(std::borrow::Cow::Borrowed);
        for row in [&head].into_iter().chain(&rows) {
            for (column, cell) in row.iter().enumerate().take(HEAD.len() - 1) {
                write!(f, "{cell:width$}  ", width = width(column))?;
            }
            writeln!(f, "{}", row[HEAD.len() - 1])?;
        }
        Ok(())
    }
}
