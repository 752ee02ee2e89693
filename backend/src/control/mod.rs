//! The control thread: it accepts front-ends, answers the control socket, and stops the process. It
//! waits on one epoll set, does not wake up while nothing happens, and never blocks: what may take
//! long is done by a [job](jobs), or by the session while its queues are stopped.

pub mod client;
mod clients;
mod counters;
pub mod damage;
mod epoll;
mod error;
mod file_watch;
mod freeze;
mod front_ends;
mod jobs;
pub mod log;
pub mod log_filter;
pub mod protocol;
mod requests;
mod resize;
pub mod scrub;
mod service_manager;
mod session_thread;
mod size_watch;
pub mod socket;
mod status;
mod stopped_work;
mod tend;
mod termination;
mod thread;
mod token;
pub mod watchdog;
mod whole_disk;
mod work;

pub(crate) use self::clients::CLIENTS_MAX;
pub use self::error::ControlError;
pub(crate) use self::error::STOP_LIMIT;
pub use self::file_watch::Role;
pub use self::service_manager::ServiceManager;
pub use self::size_watch::SizeWatch;
pub use self::status::Served;
pub use self::termination::Termination;
pub use self::thread::{Supervision, run};
