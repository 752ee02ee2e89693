//! A disk that grows while it is served: the front-end is notified, the new blocks can be used, and
//! nothing else changes.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use serde_json::{Value, json};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag, VhostUserProtocolFeatures};

use crate::harness::{
    Backend, Frontend, IOERR, Image, LoopDevice, OK, Request, Setup, TIME_LIMIT, Vm, message, pattern,
};

const MIB: usize = 1 << 20;
/// Its last tuples lie in the middle of a page of the array.
const OLD: u64 = 4 << 20;
const NEW: u64 = 9 << 20;
/// `VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`
const CONFIG_CHANGE: u32 = 2;

/// A disk of [`OLD`] bytes, served to a front-end that can be notified of its size.
struct Rig {
    vm: Vm,
    /// Where the back-end's own messages arrive.
    channel: UnixStream,
}

impl Rig {
    fn new(image: Image, args: &[&str]) -> Self {
        let mut vm = Setup::of(image).options(args).start();
        let (channel, theirs) = UnixStream::pair().unwrap();
        channel.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        assert!(vm.frontend.acknowledged(FrontendReq::SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]));
        Self { vm, channel }
    }

    /// `stableblk ctl resize`, which must succeed.
    fn resize(&self, size: &str) -> Value {
        self.vm.backend.ask(&["resize", "--size", size])
    }

    /// Waits until the front-end is notified of a new size.
    #[track_caller]
    fn assert_notified(&mut self) {
        let mut received = [0; 12];
        self.channel.read_exact(&mut received).unwrap();
        // no reply is asked for
        assert_eq!(received[..], message(CONFIG_CHANGE, 0, &[]));
    }

    #[track_caller]
    fn assert_not_notified(&mut self) {
        self.channel.set_nonblocking(true).unwrap();
        let received = self.channel.read(&mut [0]);
        assert_eq!(received.unwrap_err().kind(), ErrorKind::WouldBlock, "the front-end was notified");
    }

    fn finish(self) {
        self.vm.stop_clean();
    }
}

fn capacity(frontend: &mut Frontend) -> u64 {
    u64::from_le_bytes(frontend.config(0, 8).unwrap().try_into().unwrap()) * 512
}

/// A file that somebody else makes larger, with `data` at its end.
fn extend(image: &Image, size: u64, data: &[u8]) {
    let file = OpenOptions::new().write(true).open(image.path()).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(data, size - data.len() as u64).unwrap();
}

#[test]
fn the_front_end_is_notified_and_the_new_blocks_can_be_used() {
    for integrity in ["auto", "none"] {
        let image = if integrity == "auto" { Image::create(OLD) } else { Image::without_sidecar(OLD) };
        let mut rig = Rig::new(image, &["--integrity", integrity]);
        rig.vm.queue.write(OLD / 512 - 2048, &pattern(1, MIB));
        assert_eq!(rig.vm.queue.try_read(OLD / 512, 4096).0.status, IOERR, "past the end");
        // requests that are under way meanwhile
        let buffer = rig.vm.memory.allocate(4096);
        let pending: Vec<_> =
            (0..64).map(|index| rig.vm.queue.submit(&Request::read(index * 8, &[(buffer, 4096)]))).collect();
        rig.vm.queue.kick();
        assert_eq!(rig.resize("9M"), json!({ "bytes": NEW, "grown": true }));
        let completions = rig.vm.queue.wait_all();
        assert!(completions.len() == pending.len() && completions.iter().all(|done| done.status == OK));

        rig.assert_notified();
        let Vm { mut queue, mut frontend, backend, image, .. } = rig.vm;
        assert_eq!(capacity(&mut frontend), NEW);
        assert_eq!(backend.ask(&["status"])["bytes"], NEW);
        assert_eq!(fs::metadata(image.path()).unwrap().len(), NEW);
        assert!(queue.read(OLD / 512 - 2048, MIB) == pattern(1, MIB));
        assert!(queue.read(OLD / 512, 5 * MIB) == vec![0; 5 * MIB], "what is new is not zeros");
        assert_eq!(queue.try_read(NEW / 512, 4096).0.status, IOERR, "past the new end");
        // over the old end, where the old last page of the array has room, and at the new end
        queue.write(OLD / 512 - 8, &pattern(2, MIB));
        queue.write(NEW / 512 - 2048, &pattern(3, MIB));
        queue.flush();
        backend.kill();

        let mut vm = Setup::of(&image).options(&["--integrity", integrity]).connect();
        assert_eq!(capacity(&mut vm.frontend), NEW);
        let mut queue = vm.frontend.queue(0);
        assert!(queue.read(OLD / 512 - 8, MIB) == pattern(2, MIB));
        assert!(queue.read(NEW / 512 - 2048, MIB) == pattern(3, MIB));
        drop(vm.frontend);
        vm.backend.stop();
        if integrity == "auto" {
            image.assert_clean();
        }
    }
}

#[test]
fn a_file_that_grows_is_followed_and_its_new_data_is_trusted() {
    let mut rig = Rig::new(Image::create(OLD), &[]);
    rig.vm.queue.write(OLD / 512 - 2048, &pattern(1, MIB));
    // once within the last page of the array as it was, once over several new ones
    for (round, size) in [(2, OLD + 8 * 4096), (3, 48 << 20)] {
        let data = pattern(round, 8 * 4096);
        extend(&rig.vm.image, size, &data);
        rig.assert_notified();
        assert_eq!(capacity(&mut rig.vm.frontend), size);
        assert!(rig.vm.queue.read(size / 512 - 64, 8 * 4096) == data);
        assert!(rig.vm.queue.read(OLD / 512 - 2048, MIB) == pattern(1, MIB));
    }
    assert_eq!(rig.vm.backend.ask(&["resize"]), json!({ "bytes": 48 << 20, "grown": false }));
    let Vm { frontend, backend, image, .. } = rig.vm;
    drop(frontend);
    backend.stop();
    image.assert_clean();
    let mut vm = Setup::of(&image).start();
    assert!(vm.queue.read(OLD / 512, 8 * 4096) == pattern(2, 8 * 4096));
    drop(vm.frontend);
    vm.backend.stop();
}

/// The kernel's event alone makes the disk grow.
#[test]
fn a_device_that_grows_is_followed() {
    let Some(device) = LoopDevice::new(OLD) else { return };
    let mut rig = Rig::new(device.protect(), &[]);
    rig.vm.queue.write(OLD / 512 - 2048, &pattern(1, MIB));
    device.backing().set_len(NEW).unwrap();
    // as a volume that was somebody else's before
    device.backing().write_all_at(&pattern(2, MIB), OLD + MIB as u64).unwrap();
    device.measure();
    rig.assert_notified();
    assert_eq!(capacity(&mut rig.vm.frontend), NEW);
    assert_eq!(rig.vm.backend.ask(&["resize"]), json!({ "bytes": NEW, "grown": false }));
    assert!(rig.vm.queue.read(OLD / 512 - 2048, MIB) == pattern(1, MIB));
    assert!(rig.vm.queue.read(OLD / 512, MIB) == vec![0; MIB]);
    assert!(rig.vm.queue.read(OLD / 512 + 2048, MIB) == pattern(2, MIB));
    rig.vm.queue.write(NEW / 512 - 2048, &pattern(3, MIB));
    assert!(rig.vm.queue.read(NEW / 512 - 2048, MIB) == pattern(3, MIB));
    assert_eq!(rig.vm.queue.try_read(NEW / 512, 4096).0.status, IOERR, "past the new end");
    rig.finish();
}

#[test]
fn a_disk_grows_without_a_front_end_and_without_its_channel() {
    let image = Image::create(OLD);
    let backend = Backend::serve(&image, &[]);
    assert_eq!(backend.ask(&["resize", "--size", "5M"])["grown"], true);
    let mut frontend = backend.connect();
    assert_eq!(capacity(&mut frontend), 5 << 20);
    let mut queue = frontend.queue(0);
    queue.write((5 << 20) / 512 - 8, &pattern(1, 4096));
    // no channel
    assert_eq!(backend.ask(&["resize", "--size", "6M"])["grown"], true);
    assert_eq!(capacity(&mut frontend), 6 << 20);
    queue.write((6 << 20) / 512 - 8, &pattern(2, 4096));
    assert!(queue.read((5 << 20) / 512 - 8, 4096) == pattern(1, 4096));
    drop(frontend);
    backend.stop();
    image.assert_clean();
}

#[test]
fn a_front_end_without_acknowledgements_is_notified_too() {
    let mut rig = Rig::new(Image::create(OLD), &[]);
    let features = rig.vm.frontend.protocol.get_protocol_features().unwrap();
    rig.vm.frontend.protocol.set_hdr_flags(VhostUserHeaderFlag::empty());
    rig.vm.frontend.protocol.set_protocol_features(features - VhostUserProtocolFeatures::REPLY_ACK).unwrap();
    let (channel, theirs) = UnixStream::pair().unwrap();
    channel.set_read_timeout(Some(TIME_LIMIT)).unwrap();
    rig.vm.frontend.send(FrontendReq::SET_BACKEND_REQ_FD, 0, &[], &[theirs.as_raw_fd()]);
    rig.channel = channel;
    // a message with a reply: the one before it has been taken
    assert_eq!(capacity(&mut rig.vm.frontend), OLD);
    assert_eq!(rig.resize("9M")["grown"], true);
    rig.assert_notified();
    assert_eq!(capacity(&mut rig.vm.frontend), NEW);
    rig.finish();
}

#[test]
fn a_front_end_that_does_not_read_its_channel_delays_nothing() {
    let mut rig = Rig::new(Image::create(OLD), &[]);
    let (mut channel, theirs) = UnixStream::pair().unwrap();
    set_socket_recv_buffer_size(&channel, 1).unwrap();
    set_socket_send_buffer_size(&theirs, 1).unwrap();
    assert!(rig.vm.frontend.acknowledged(FrontendReq::SET_BACKEND_REQ_FD, &[], &[theirs.as_raw_fd()]));
    drop(theirs);
    let sizes = (1..=40).map(|step| OLD + step * 4096);
    for size in sizes.clone() {
        assert_eq!(rig.resize(&size.to_string())["bytes"], size);
        rig.vm.queue.write(size / 512 - 8, &pattern(size, 4096));
    }
    let mut received = Vec::new();
    channel.set_nonblocking(true).unwrap();
    assert_eq!(channel.read_to_end(&mut received).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(received.len() < 40 * 12, "all was taken: the buffers were not small");
    assert!(!received.is_empty() && received.chunks(12).all(|part| part == message(CONFIG_CHANGE, 0, &[])));
    for size in sizes {
        assert!(rig.vm.queue.read(size / 512 - 8, 4096) == pattern(size, 4096));
    }
    rig.finish();
}

#[test]
fn an_impossible_size_is_refused_and_changes_nothing() {
    let mut rig = Rig::new(Image::create(OLD), &[]);
    rig.vm.queue.write(0, &pattern(1, MIB));
    for (size, reason) in [
        ("1M", "a disk can only grow"),
        ("4194305", "not a multiple of 4096: make it 4198400"),
        // the dirty map of a small image has room for 256 GiB
        ("300T", "the sidecar cannot cover that size"),
    ] {
        let refused = rig.vm.backend.ctl(&["resize", "--size", size]);
        assert_eq!(refused.code, Some(1), "{size}");
        assert!(refused.stderr.contains(reason), "{size}: {}", refused.stderr);
    }
    // seen by itself, not asked for
    extend(&rig.vm.image, OLD + 512, &[]);
    rig.vm.backend.log().wait_for("4194816 bytes are not a multiple of 4096");
    OpenOptions::new().write(true).open(rig.vm.image.path()).unwrap().set_len(MIB as u64).unwrap();
    rig.vm.backend.log().wait_for("the image has been cut off at 1048576 bytes");
    assert_eq!(rig.vm.backend.ctl(&["resize", "--size", "9M"]).code, Some(1));
    assert_eq!(capacity(&mut rig.vm.frontend), OLD);
    assert!(rig.vm.queue.read(0, MIB) == pattern(1, MIB));
    rig.assert_not_notified();
    drop(rig.vm.frontend);
    rig.vm.backend.stop();
}
