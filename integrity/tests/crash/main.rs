//! The sidecar's log against crashes: every state that a power cut or a killed process can leave,
//! recovered and compared with what the guest was promised.

mod cuts;
mod damage;
mod directed;
mod explorer;
mod hash;
mod host;
mod medium;
mod mutants;
mod oracle;
mod outage;
mod pairs;
mod play;
mod programs;
mod promise;
mod recorder;
mod rot;
mod schedules;
mod search;
mod sectors;
#[path = "../served/mod.rs"]
mod served;
mod setup;
#[path = "../../../tests/skip.rs"]
mod skip;
mod unreadable;
mod violation;
