//! The families of the damage list and of the scrub. A disk without PI has none of them, nor
//! has one while it is frozen.

use std::fmt;

use prometheus_client::metrics::MetricType::Gauge;

use super::labels::{Disk, Families};
use crate::command::disks::FoundDisk;
use crate::control::damage::DamageCount;
use crate::control::scrub::{ScrubState, ScrubStatus};

/// The damage list.
pub(super) fn damage(found: &[FoundDisk], families: &mut Families<'_>) -> fmt::Result {
    type Value = fn(&DamageCount) -> u64;
    let gauges: [(&str, &str, Value); 2] = [
        ("damaged_blocks", "Blocks in the damage list", |damage| damage.blocks),
        ("damage_unlisted", "Findings for which the damage list had no room", |damage| damage.unlisted),
    ];
    for (name, help, value) in gauges {
        families.gauge(name, help, Disk::of(found), |disk| disk.damage.as_ref().map(value))?;
    }
    Ok(())
}

/// The scrub that is under way, and the last one.
pub(super) fn scrub(found: &[FoundDisk], families: &mut Families<'_>) -> fmt::Result {
    type Value = fn(&ScrubStatus) -> u64;
    families.write(Gauge, "scrub_state", "The state of the scrub: 1 for the one it is in", |samples| {
        for disk in Disk::of(found) {
            let Some(scrub) = &disk.status.scrub else { continue };
            for (name, state) in STATES {
                samples.gauge(disk, &[("state", name)], (scrub.state == state).into())?;
            }
        }
        Ok(())
    })?;
    let gauges: [(&str, &str, Value); 4] = [
        ("scrub_position_bytes", "Part of the disk that the present scrub has verified", |scrub| {
            scrub.position
        }),
        ("scrub_found_blocks", "Blocks that the present scrub has found so far", |scrub| scrub.found),
        ("scrub_last_found_blocks", "Blocks that the last complete scrub has found", |scrub| {
            scrub.last_found
        }),
        (
            "scrub_last_done_timestamp_seconds",
            "When the last complete scrub was done, in seconds since 1970; 0: never",
            |scrub| scrub.last_done,
        ),
    ];
    for (name, help, value) in gauges {
        families.gauge(name, help, Disk::of(found), |disk| disk.scrub.as_ref().map(value))?;
    }
    Ok(())
}

const STATES: [(&str, ScrubState); 4] = [
    ("idle", ScrubState::Idle),
    ("running", ScrubState::Running),
    ("stopped", ScrubState::Stopped),
    ("interrupted", ScrubState::Interrupted),
];
