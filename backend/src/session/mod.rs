//! The session of a front-end: it takes vhost-user messages, and starts and stops queues.

mod backend_channel;
mod change_memory;
mod connection;
mod dispatch;
mod error;
mod messages;
mod migration;
mod notice;
mod offer;
mod parser;
mod queue;
mod run_queues;
mod start_queue;
mod state;
mod unshared_rings;
mod wait;

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use self::dispatch::Dispatcher;
pub use self::dispatch::FrontendTurn;
pub use self::notice::{DoneWork, Notice};
pub use self::offer::{Choices, Offer};
use self::state::Session;
use crate::device::BlockDevice;
use crate::inbox::Inbox;
use crate::worker::disk::Disk;

/// Serves `stream` until the front-end leaves, breaks the protocol, or the stream is shut down;
/// then drains every queue. Meanwhile it carries out the notices in `inbox`.
pub fn serve<B: BlockDevice>(
    disk: Arc<Disk<B>>,
    offer: Offer,
    stream: UnixStream,
    inbox: Arc<Inbox<Notice>>,
    turn: FrontendTurn,
) -> io::Result<()> {
    let session = Arc::new(Mutex::new(Session::new(disk, offer, inbox.clone())));
    let mut dispatcher = Dispatcher::new(session.clone(), stream, inbox, turn)?;
    if let Err(ended) = dispatcher.serve() {
        tracing::warn!("session ended: {}", crate::report::chain(&ended));
    }
    {
        let mut session = session.lock().unwrap_or_else(PoisonError::into_inner);
        // queues that died have been logged, and are not served again
        let _ = session.stop_all();
        session.disk.negotiated.set(0);
        session.disk.metrics.iter().for_each(|metrics| metrics.ring.forget_trouble());
    }
    // closed last: the end of the stream says that nothing is in flight
    drop(dispatcher);
    Ok(())
}
