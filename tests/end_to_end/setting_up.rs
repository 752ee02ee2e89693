//! Queues are set up in any order, and changed while they run.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;

use fastrand::Rng;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::FrontendReq;
use virtio::Features;

use crate::harness::{Backend, Frontend, GuestMemory, Image, OK, Request, TIME_LIMIT, pattern};

/// Nothing says that what a ring needs comes in the order in which QEMU sends it.
#[test]
fn the_messages_for_a_ring_come_in_any_order() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let rings = memory.regions()[0];
    for seed in 0..30 {
        let mut frontend = Frontend::connect(&backend, &memory);
        let features = frontend.protocol.get_features().unwrap();
        let mut queue = frontend.queue(0);
        assert!(frontend.acknowledged(FrontendReq::RESET_DEVICE, &[], &[]));
        frontend.protocol.remove_mem_region(&rings).unwrap();
        let config = frontend.config_of(&queue);
        let mut order = [0, 1, 2, 3, 4, 5, 6, 7];
        Rng::with_seed(seed).shuffle(&mut order);
        for message in order {
            let protocol = &mut frontend.protocol;
            let done = match message {
                0 => protocol.set_vring_num(0, queue.size()),
                1 => protocol.set_vring_base(0, 0),
                2 => protocol.set_vring_addr(0, &config),
                3 => protocol.set_vring_call(0, queue.call_fd()),
                4 => protocol.set_vring_kick(0, queue.kick_fd()),
                5 => protocol.set_vring_enable(0, true),
                6 => protocol.add_mem_region(&rings).map(drop),
                _ => protocol.set_features(features),
            };
            done.unwrap_or_else(|error| panic!("message {message} of {order:?}: {error}"));
        }
        queue.take_interrupts();
        queue.write(8, &pattern(seed, 4096));
        assert!(queue.read(8, 4096) == pattern(seed, 4096), "{order:?}");
    }
}

#[test]
fn features_and_rings_change_under_requests() {
    let image = Image::create(64 << 20);
    let backend = Backend::serve(&image, &["--num-queues", "2"]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let (mut queue, mut busy) = (frontend.queue(0), frontend.queue(1));
    let features = frontend.protocol.get_features().unwrap();
    let buffer = memory.allocate(16 << 10);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (started, is_busy) = mpsc::channel();
        let (done, busy) = (&done, &mut busy);
        scope.spawn(move || {
            for round in 0.. {
                busy.write(8192, &pattern(round, 4096));
                assert!(busy.read(8192, 4096) == pattern(round, 4096));
                // nobody listens any more after the first round
                let _ = started.send(());
                if done.load(Relaxed) {
                    break;
                }
            }
        });
        is_busy.recv_timeout(TIME_LIMIT).expect("the first round");
        for round in 0..40 {
            for request in 0..40 {
                queue.submit(&Request::write(32 * request, &[(buffer, 16 << 10)]));
            }
            queue.kick();
            // the ring of one, the features of both; each leaves all requests to be done
            match round % 4 {
                0 => frontend.protocol.set_features(features & !Features::FLUSH.bits()).unwrap(),
                1 => frontend.protocol.set_features(features).unwrap(),
                2 => frontend.protocol.set_vring_num(0, queue.size()).unwrap(),
                _ => {
                    let config = frontend.config_of(&queue);
                    frontend.protocol.set_vring_addr(0, &config).unwrap();
                }
            }
            let completions = queue.wait_all();
            assert_eq!(completions.len(), 40);
            assert!(completions.iter().all(|completion| completion.status == OK), "round {round}");
        }
        done.store(true, Relaxed);
    });
    drop(frontend);
    backend.stop();
    image.assert_clean();
}
