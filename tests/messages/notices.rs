//! Notices of the control thread reach the front-end, whatever the front-end does.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use stableblk::device::BlockDevice;
use stableblk::device::mem::MemDevice;
use stableblk::session::Notice;
use stableblk::worker::disk::Disk;
use vhost::VhostBackend;
use vhost::vhost_user::message::{
    BackendReq, FrontendReq, VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};

use crate::alone;
use crate::messages::{Session, protected_disk};

/// Longest wait for anything.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn connect(stream: UnixStream) -> Frontend {
    let mut frontend = Frontend::from_stream(stream, 1);
    frontend.set_owner().unwrap();
    let features = frontend.get_features().unwrap();
    frontend.set_features(features).unwrap();
    let protocol_features = frontend.get_protocol_features().unwrap();
    assert!(protocol_features.contains(VhostUserProtocolFeatures::BACKEND_REQ));
    frontend.set_protocol_features(protocol_features).unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend
}

fn capacity(frontend: &mut Frontend) -> u64 {
    let (_, bytes) = frontend.get_config(0, 8, VhostUserConfigFlags::empty(), &[0; 8]).unwrap();
    u64::from_le_bytes(bytes.try_into().unwrap())
}

/// A notice of growth to `sectors` sectors.
fn grown_to(disk: &Arc<Disk<MemDevice>>, sectors: u64) -> Notice {
    let disk = disk.clone();
    Notice::while_stopped(move || disk.device.grow(sectors * 512).is_ok())
}

/// The next request on the channel.
fn next_request(channel: &mut UnixStream) -> u32 {
    channel.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    let mut header = [0; 12];
    channel.read_exact(&mut header).unwrap();
    u32::from_ne_bytes(*header.first_chunk().unwrap())
}

#[test]
fn a_new_capacity_is_announced_on_the_backend_channel() {
    let _alone = alone();
    let (stream, served) = UnixStream::pair().unwrap();
    let disk = protected_disk();
    let session = Session::start(disk.clone(), served);
    let mut frontend = connect(stream.try_clone().unwrap());
    assert_eq!(capacity(&mut frontend), 128);

    // there is no channel yet
    session.inbox.post(grown_to(&disk, 256));
    let (mut channel, theirs) = UnixStream::pair().unwrap();
    frontend.set_backend_request_fd(&theirs).unwrap();
    drop(theirs);
    assert_eq!(capacity(&mut frontend), 256);

    session.inbox.post(grown_to(&disk, 512));
    assert_eq!(next_request(&mut channel), BackendReq::CONFIG_CHANGE_MSG as u32);
    assert_eq!(capacity(&mut frontend), 512);

    // a front-end in the middle of a message hears of it too
    let mut message = Vec::from(u32::from(FrontendReq::GET_FEATURES).to_ne_bytes());
    message.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    (&stream).write_all(&message[..5]).unwrap();
    session.inbox.post(grown_to(&disk, 1024));
    assert_eq!(next_request(&mut channel), BackendReq::CONFIG_CHANGE_MSG as u32);
    (&stream).write_all(&message[5..]).unwrap();
    (&stream).read_exact(&mut [0; 20]).unwrap();
    assert_eq!(capacity(&mut frontend), 1024);

    // one that has closed the channel is served on
    drop(channel);
    session.inbox.post(grown_to(&disk, 2048));
    assert_eq!(capacity(&mut frontend), 2048);
    drop((frontend, stream));
    session.join();
}
