//! Work on the disk beside its queues: the scrub, and blocks that are accepted.
//!
//! It has a queue of the device for itself, and takes ranges of the range lock as the workers do.
//! It ends, or pauses, within the time of one transfer when the device is needed alone: to grow, to
//! be handed over, or to be closed.

pub mod accept;
mod own_queue;
mod pace;
mod place;
pub mod scrub;

pub use self::place::{Beside, LEAVE_LIMIT, StillBusy};
