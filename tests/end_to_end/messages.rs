//! Messages that are unknown, malformed, out of place, or come in pieces.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use vhost::vhost_user::message::FrontendReq;

use crate::harness::{Backend, Image, Queue, Setup, message, pattern};

/// Known to the protocol, and of no use to this device: its feature is not offered, or it is
/// another device's.
const UNSUPPORTED: [FrontendReq; 10] = [
    FrontendReq::SET_LOG_FD,
    FrontendReq::SEND_RARP,
    FrontendReq::NET_SET_MTU,
    FrontendReq::IOTLB_MSG,
    FrontendReq::SET_VRING_ENDIAN,
    FrontendReq::CLOSE_CRYPTO_SESSION,
    FrontendReq::POSTCOPY_LISTEN,
    FrontendReq::POSTCOPY_END,
    FrontendReq::GPU_SET_SOCKET,
    FrontendReq::VRING_KICK,
];

/// Messages with a reply of their own, none of which says no.
const WITHOUT_REFUSAL: [FrontendReq; 5] = [
    FrontendReq::GET_SHARED_OBJECT,
    FrontendReq::CREATE_CRYPTO_SESSION,
    FrontendReq::GET_SHMEM_CONFIG,
    FrontendReq::GET_VRING_BASE,
    FrontendReq::GET_STATUS,
];

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().copied().flat_map(u32::to_ne_bytes).collect()
}

fn assert_served(queue: &mut Queue, seed: u64) {
    queue.write(8, &pattern(seed, 4096));
    assert!(queue.read(8, 4096) == pattern(seed, 4096));
}

#[test]
fn unknown_messages_are_refused_or_dropped_and_the_session_stays() {
    let mut vm = Setup::disk(16 << 20).start();
    let null = File::open("/dev/null").unwrap();
    let before = vm.backend.holdings()[0];
    let unknown = UNSUPPORTED.map(u32::from).into_iter().chain([0, 45, 1000, u32::MAX]);
    for (seed, request) in (0..).zip(unknown) {
        for body in [&[][..], &[0; 8], &[0xff; 4096]] {
            for files in [&[][..], &[null.as_raw_fd(); 3]] {
                assert!(!vm.frontend.acknowledged(request, body, files), "message {request}");
                vm.frontend.send(request, 0, body, files);
            }
        }
        // no reply to what was dropped is in the way
        assert_eq!(vm.frontend.config(0, 60).unwrap().len(), 60);
        assert_served(&mut vm.queue, seed);
    }
    assert_eq!(vm.backend.holdings()[0], before, "open files");
}

#[test]
fn postcopy_is_refused_by_a_reply_without_a_descriptor() {
    let mut vm = Setup::disk(16 << 20).start();
    assert!(vm.frontend.exchange(FrontendReq::POSTCOPY_ADVISE, &[]).is_empty());
    assert_served(&mut vm.queue, 1);
}

#[test]
fn malformed_messages_are_refused_and_change_nothing() {
    let mut vm = Setup::disk(16 << 20).options(&["--num-queues", "4"]).start();
    let null = File::open("/dev/null").unwrap();
    let null = [null.as_raw_fd(); 253];
    let refused: &[(FrontendReq, &[u32], usize)] = &[
        // no body, too little of it, too much
        (FrontendReq::SET_OWNER, &[0], 0),
        (FrontendReq::SET_FEATURES, &[], 0),
        (FrontendReq::SET_FEATURES, &[0, 0, 0], 0),
        (FrontendReq::SET_PROTOCOL_FEATURES, &[0], 0),
        (FrontendReq::SET_VRING_NUM, &[0], 0),
        (FrontendReq::SET_VRING_BASE, &[0; 64], 0),
        (FrontendReq::SET_VRING_ADDR, &[0; 4], 0),
        (FrontendReq::SET_MEM_TABLE, &[], 0),
        (FrontendReq::ADD_MEM_REG, &[0; 2], 1),
        (FrontendReq::REM_MEM_REG, &[0; 2], 0),
        (FrontendReq::SET_CONFIG, &[0; 2], 0),
        (FrontendReq::SET_STATUS, &[], 0),
        (FrontendReq::RESET_DEVICE, &[0; 2], 0),
        // bodies that contradict themselves, or name what is not there
        (FrontendReq::SET_FEATURES, &[u32::MAX; 2], 0),
        (FrontendReq::SET_PROTOCOL_FEATURES, &[u32::MAX; 2], 0),
        (FrontendReq::SET_VRING_NUM, &[0, 100], 0),
        (FrontendReq::SET_VRING_NUM, &[4, 128], 0),
        (FrontendReq::SET_VRING_NUM, &[u32::MAX, 128], 0),
        (FrontendReq::SET_VRING_BASE, &[0, 0x1_0000], 0),
        (FrontendReq::SET_VRING_ENABLE, &[0, 2], 0),
        (FrontendReq::SET_VRING_ENABLE, &[4, 1], 0),
        (FrontendReq::SET_MEM_TABLE, &[0, 0], 0),
        (FrontendReq::SET_MEM_TABLE, &[1, 0], 1),
        (FrontendReq::SET_MEM_TABLE, &[u32::MAX, 0], 1),
        (FrontendReq::SET_CONFIG, &[0, u32::MAX, 0, 0], 0),
        (FrontendReq::SET_STATUS, &[0x100, 0], 0),
        // files too few, too many, of the wrong kind
        (FrontendReq::SET_VRING_KICK, &[0, 0], 0),
        (FrontendReq::SET_VRING_KICK, &[0, 0], 1),
        (FrontendReq::SET_VRING_KICK, &[0, 0], 2),
        (FrontendReq::SET_VRING_KICK, &[0x100, 0], 0),
        (FrontendReq::SET_VRING_KICK, &[4, 0], 1),
        (FrontendReq::SET_VRING_CALL, &[0, 0], 1),
        (FrontendReq::SET_VRING_CALL, &[0, 0], 253),
        (FrontendReq::SET_VRING_ERR, &[0, 0], 1),
        (FrontendReq::SET_FEATURES, &[0, 0], 1),
        (FrontendReq::SET_BACKEND_REQ_FD, &[], 0),
        (FrontendReq::SET_BACKEND_REQ_FD, &[], 1),
        (FrontendReq::SET_BACKEND_REQ_FD, &[], 2),
        // at the wrong time
        (FrontendReq::SET_OWNER, &[], 0),
    ];
    let before = vm.backend.holdings()[0];
    for (seed, &(request, body, files)) in (0..).zip(refused) {
        let taken = vm.frontend.acknowledged(request, &words(body), &null[..files]);
        assert!(!taken, "{request:?} {body:?} with {files} files was taken");
        assert_served(&mut vm.queue, seed);
    }
    assert_eq!(vm.backend.holdings()[0], before, "open files");
    drop(vm.frontend);
    let log = vm.backend.stop();
    assert!(log.contains("SET_OWNER refused"), "{log}");
    assert!(log.matches("refused").count() < refused.len(), "each was logged:\n{log}");
}

/// A memory change that is refused must not leave the queues stopped.
#[test]
fn refused_memory_leaves_the_old_memory_in_use() {
    let mut vm = Setup::disk(16 << 20).connect();
    let (mut queue, mut other) = (vm.frontend.queue(0), vm.frontend.queue(1));
    let region = vm.memory.regions()[1];
    let fd = region.mmap_handle;
    let body = |guest_addr: u64, size: u64, offset: u64| -> Vec<u8> {
        let fields = [0, guest_addr, size, region.userspace_addr, offset];
        fields.into_iter().flat_map(u64::to_ne_bytes).collect()
    };
    let start = region.guest_phys_addr;
    for (seed, body) in (0..).zip([
        // twice the same, over one that is there, past the file's end, past the end of all
        // addresses, of no size
        body(start, region.memory_size, region.mmap_offset),
        body(start + 4096, 4096, 0),
        body(start << 4, 1 << 40, 0),
        body(u64::MAX - 4095, 8192, 0),
        body(start << 4, 0, 0),
        body(start << 4, 4096, u64::MAX),
    ]) {
        assert!(!vm.frontend.acknowledged(FrontendReq::ADD_MEM_REG, &body, &[fd]));
        assert!(!vm.frontend.acknowledged(FrontendReq::REM_MEM_REG, &body[..body.len() - 8], &[]));
        assert_served(&mut queue, seed);
        assert_served(&mut other, seed);
    }
}

/// A ring that cannot be is refused, and the one there was is served on.
#[test]
fn a_refused_ring_leaves_the_old_ring_in_use() {
    let mut vm = Setup::disk(16 << 20).start();
    let end =
        vm.memory.regions().iter().map(|region| region.userspace_addr + region.memory_size).max().unwrap();
    for (seed, [descriptor, used, available]) in (0..).zip([
        // past the end of the memory, and misaligned
        [end - 16, end - 4096, end - 8192],
        [end - 8192, end - 4, end - 4096],
        [end - 8192, end - 4096, end - 2],
        [end - 8192 + 8, end - 4096, end - 1024],
    ]) {
        let fields = [0, descriptor, used, available, 0];
        let body: Vec<u8> = fields.into_iter().flat_map(u64::to_ne_bytes).collect();
        assert!(!vm.frontend.acknowledged(FrontendReq::SET_VRING_ADDR, &body, &[]));
        assert_served(&mut vm.queue, seed);
    }
}

#[test]
fn a_refusal_without_need_reply_ends_the_session() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    for (request, body) in [
        (FrontendReq::SET_FEATURES, [u32::MAX; 2]),
        (FrontendReq::SET_VRING_NUM, [0, 100]),
        (FrontendReq::SET_MEM_TABLE, [1, 0]),
    ] {
        let mut frontend = backend.connect();
        let mut queue = frontend.queue(0);
        assert_served(&mut queue, 1);
        frontend.send(request, 0, &words(&body), &[]);
        assert_eq!(frontend.reply(), None, "{request:?}");
    }
    for request in WITHOUT_REFUSAL {
        let mut frontend = backend.connect();
        let mut queue = frontend.queue(0);
        assert_served(&mut queue, 1);
        frontend.send(request, 0, &[0xff; 12], &[]);
        assert_eq!(frontend.reply(), None, "{request:?}");
    }
    assert_served(&mut backend.connect().queue(0), 2);
    let log = backend.stop();
    assert!(log.contains("SET_VRING_NUM cannot be refused in another way"), "{log}");
}

#[test]
fn a_message_in_pieces_delays_no_queue() {
    let mut vm = Setup::disk(16 << 20).start();
    for (seed, byte) in (0..).zip(message(FrontendReq::GET_FEATURES, 0, &[])) {
        assert_served(&mut vm.queue, seed);
        vm.frontend.send_bytes(&[byte], &[]);
    }
    assert_eq!(vm.frontend.reply().unwrap().0, FrontendReq::GET_FEATURES as u32);
    // half of the header, with files
    let null = File::open("/dev/null").unwrap();
    vm.frontend.send_bytes(&[1; 6], &[null.as_raw_fd(); 7]);
    assert_served(&mut vm.queue, 1);
    vm.backend.stop();
}

#[test]
fn an_impossible_header_ends_the_session() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    for header in [[1, 2, 0], [1, 0, 0], [1, 1, 4097], [1, 1, u32::MAX], [u32::MAX; 3]] {
        let mut frontend = backend.connect();
        assert_served(&mut frontend.queue(0), 1);
        frontend.send_bytes(&words(&header), &[]);
        assert_eq!(frontend.reply(), None);
    }
    // the front-end reads no reply, and then leaves
    let mut stream = UnixStream::connect(backend.socket()).unwrap();
    let flood = message(FrontendReq::GET_FEATURES, 0, &[]).repeat(1000);
    let _ = stream.write_all(&flood);
    drop(stream);
    assert_served(&mut backend.connect().queue(0), 2);
}
