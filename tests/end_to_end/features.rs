//! The features that are offered, bit by bit of the specification, and that no others are accepted.

use vhost::VhostBackend;

use crate::harness::{Backend, Image, Setup};

/// `VHOST_F_LOG_ALL` and `VHOST_USER_F_PROTOCOL_FEATURES`: the front-end's, no driver sees them.
const VHOST: u64 = 1 << 26 | 1 << 30;
/// `SEG_MAX`, `BLK_SIZE`, `FLUSH`, `TOPOLOGY`; `INDIRECT_DESC`, `EVENT_IDX`, `VERSION_1`.
const ALWAYS: [u32; 7] = [2, 6, 9, 10, 28, 29, 32];
/// `CONFIG_WCE`, `DISCARD`, `WRITE_ZEROES`.
const WRITABLE: [u32; 3] = [11, 13, 14];
const RO: u32 = 5;
const MQ: u32 = 12;

fn mask(bits: impl IntoIterator<Item = u32>) -> u64 {
    bits.into_iter().map(|bit| 1 << bit).sum()
}

#[test]
fn each_feature_is_offered_where_it_applies() {
    let image = Image::create(16 << 20);
    let offered = |args: &[&str]| {
        let backend = Backend::serve(&image, args);
        backend.connect().protocol.get_features().unwrap() & !VHOST
    };
    let always = mask(ALWAYS);
    assert_eq!(offered(&["--num-queues", "1"]), always | mask(WRITABLE));
    assert_eq!(offered(&["--num-queues", "4"]), always | mask(WRITABLE) | mask([MQ]));
    assert_eq!(offered(&["--num-queues", "1", "--read-only"]), always | mask([RO]));
}

/// A legacy device's feature that QEMU offers itself and passes on: refused, its guest would hang.
#[test]
fn any_layout_is_taken_though_it_is_not_offered() {
    const ANY_LAYOUT: u64 = 1 << 27;
    let mut vm = Setup::disk(16 << 20).start();
    let offered = vm.frontend.protocol.get_features().unwrap() & !VHOST;
    vm.frontend.protocol.set_features(offered | ANY_LAYOUT | 1 << 30).unwrap();
    vm.queue.flush();
}

/// Without an indirect table a longer request does not fit in the ring.
#[test]
fn as_many_segments_are_offered_as_fit_in_a_ring() {
    const SEG_MAX: u32 = 12;
    let image = Image::create(16 << 20);
    for (queue_size, segments) in [("1024", 126), ("128", 126), ("64", 62), ("4", 2), ("2", 1)] {
        let backend = Backend::serve(&image, &["--queue-size", queue_size]);
        let config = backend.connect().config(SEG_MAX, 4).unwrap();
        assert_eq!(config, u32::to_le_bytes(segments), "--queue-size {queue_size}");
    }
}

#[test]
fn a_feature_that_was_not_offered_is_refused() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    // barrier, size_max, geometry, SCSI, lifetime, secure erase, zoned; packed ring, in order
    for bit in [0, 1, 4, 7, 15, 16, 17, 34, 35] {
        let frontend = backend.connect();
        let offered = frontend.protocol.get_features().unwrap();
        assert!(frontend.protocol.set_features(offered | 1 << bit).is_err(), "bit {bit}");
    }
    backend.connect().queue(0).flush();
}
