//! Requests about damage: the list, the scrub, and blocks that are accepted.

use std::num::NonZeroU64;
use std::ops::Range;

use super::damage::DamageReport;
use super::protocol::{AcceptResult, ControlReply};
use super::scrub::ScrubStatus;
use super::stopped_work::JobResult;
use super::thread::ControlThread;
use crate::device::BlockDevice;
use crate::report;
use crate::worker::beside::accept;
use crate::worker::beside::scrub::{self, ScrubError};
use crate::worker::disk::Disk;

/// Accepted blocks that are logged one by one.
const LOGGED_MAX: usize = 32;

impl<B: BlockDevice> ControlThread<'_, B> {
    /// Replies with the damage list.
    pub(super) fn reply_damage(&mut self, client: u64) {
        let reply = damage(self.disk)
            .map_or_else(|reason| ControlReply::Error(reason.to_owned()), |report| ControlReply::ok(&report));
        self.reply(client, &reply);
    }

    /// Starts or stops the scrub.
    pub(super) fn start_scrub(&mut self, client: u64, rate: Option<NonZeroU64>, from_start: bool) {
        let started = scrub::start(self.disk, rate.map(NonZeroU64::get), from_start);
        self.reply_scrub(client, started);
    }

    pub(super) fn stop_scrub(&mut self, client: u64) {
        self.reply_scrub(client, scrub::stop(self.disk));
    }

    /// Replies with the status of the scrub, or why it could not be changed.
    pub(super) fn reply_scrub(&mut self, client: u64, changed: Result<(), ScrubError>) {
        let status = changed.and_then(|()| ScrubStatus::of(self.disk).ok_or(ScrubError::NotHeld));
        let reply = status.map_or_else(
            |error| ControlReply::Error(report::chain(&error)),
            |status| ControlReply::ok(&status),
        );
        self.reply(client, &reply);
    }

    /// Has blocks accepted by a job.
    pub(super) fn start_accept(&mut self, client: u64, first_lba: u64, last_lba: u64) {
        if first_lba > last_lba || last_lba == u64::MAX {
            let reason = "the first block is behind the last";
            return self.reply(client, &ControlReply::Error(reason.to_owned()));
        }
        let (disk, lbas) = (self.disk.clone(), first_lba..last_lba + 1);
        self.start_job(Some(client), move || JobResult::Reply(client, accept(&disk, &lbas)));
    }
}

/// The damage list; an error where it is not known now.
fn damage<B: BlockDevice>(disk: &Disk<B>) -> Result<DamageReport, &'static str> {
    let protection = disk.device.info().protection.ok_or("the disk has no protection information")?;
    let damage = disk.device.damage_if_known().ok_or("the disk is frozen, or another host has it")?;
    Ok(DamageReport::new(&damage.notes().list, protection.interval_size()))
}

/// Accepts the blocks of `lbas` that do not match, and logs which those are.
fn accept<B: BlockDevice>(disk: &Disk<B>, lbas: &Range<u64>) -> ControlReply {
    match accept::accept(disk, lbas) {
        Ok(accepted) => {
            for lba in accepted.iter().take(LOGGED_MAX) {
                tracing::warn!(lba, "accepted as it is, for a client");
            }
            if accepted.len() > LOGGED_MAX {
                tracing::warn!("{} more blocks were accepted", accepted.len() - LOGGED_MAX);
            }
            let matching = (lbas.end - lbas.start).saturating_sub(accepted.len() as u64);
            ControlReply::ok(&AcceptResult { accepted, matching })
        }
        Err(error) => ControlReply::Error(report::chain(&error)),
    }
}
