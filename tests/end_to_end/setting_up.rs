//! Queues are set up in any order, and changed while they run.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;

use fastrand::Rng;
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::FrontendReq;
use virtio::Features;

use crate::harness::{Backend, Image, OK, Request, Setup, TIME_LIMIT, pattern};

/// Nothing says that what a ring needs comes in the order in which QEMU sends it.
#[test]
fn a_ring_is_served_whatever_the_order_of_its_messages() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    for seed in 0..30 {
        let mut frontend = backend.connect();
        let rings = frontend.memory.regions()[0];
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
fn no_request_is_lost_when_features_and_rings_change() {
    let mut vm = Setup::disk(64 << 20).options(&["--num-queues", "2"]).connect();
    let (mut queue, mut busy) = (vm.frontend.queue(0), vm.frontend.queue(1));
    let features = vm.frontend.protocol.get_features().unwrap();
    let buffer = vm.memory.allocate(16 << 10);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (started, is_busy) = mpsc::channel();
        let (done, busy) = (&done, &mut busy);
        scope.spawn(move || {
            for round in 0.. {
                busy.write(8192, &pattern(round, 4096));
                assert!(busy.read(8192, 4096) == pattern(round, 4096));
                // only the first round is waited for
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
                0 => vm.frontend.protocol.set_features(features & !Features::FLUSH.bits()).unwrap(),
                1 => vm.frontend.protocol.set_features(features).unwrap(),
                2 => vm.frontend.protocol.set_vring_num(0, queue.size()).unwrap(),
                _ => {
                    let config = vm.frontend.config_of(&queue);
                    vm.frontend.protocol.set_vring_addr(0, &config).unwrap();
                }
            }
            let completions = queue.wait_all();
            assert_eq!(completions.len(), 40);
            assert!(completions.iter().all(|completion| completion.status == OK), "round {round}");
        }
        done.store(true, Relaxed);
    });
    vm.stop_clean();
}
