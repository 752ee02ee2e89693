//! A process without free descriptors: a message that brings some is refused, and the session never
//! hangs.

use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::alone;
use crate::messages::{Session, protected_disk};
use crate::notices::{TIME_LIMIT, connect};

/// No descriptor from number `limit` on, until it is dropped.
struct Limited(Rlimit);

impl Limited {
    fn to(limit: u64) -> Self {
        let before = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(limit), ..before }).unwrap();
        Self(before)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).unwrap();
    }
}

/// Ends a session that hangs, which then shows: the front-end's crate waits without a limit.
fn end_after_limit(stream: UnixStream) -> Sender<()> {
    let (lifetime, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(TIME_LIMIT) == Err(RecvTimeoutError::Timeout) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
    lifetime
}

/// The parser of messages gets each over a socket of ours. Where the kernel cannot hand it the
/// descriptors, it has taken the bytes that came with them, and the parser would wait for them for
/// ever.
#[test]
fn a_message_whose_descriptors_do_not_fit_is_refused() {
    let _alone = alone();
    let event = EventFd::new(EFD_NONBLOCK).unwrap();
    // room for none, for one, and so on: at each hand on the way they do not fit once
    for room in 0..4 {
        let (stream, served) = UnixStream::pair().unwrap();
        let session = Session::start(protected_disk(), served);
        let _lifetime = end_after_limit(stream.try_clone().unwrap());
        let mut frontend = connect(stream.try_clone().unwrap());
        frontend.get_queue_num().unwrap();
        // the lowest number that is free
        let next = event.try_clone().unwrap().as_raw_fd();
        let limited = Limited::to(u64::from(next.cast_unsigned()) + room);
        // refused or not: it is answered, or the session ends
        let _ = frontend.set_vring_call(1, &event);
        drop(limited);
        // the guard has it too
        stream.shutdown(Shutdown::Both).unwrap();
        drop((frontend, stream));
        session.join();
    }
}
