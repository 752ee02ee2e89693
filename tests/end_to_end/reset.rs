//! The device is reset under I/O, and a driver starts again.

use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{FrontendReq, VhostUserConfigFlags};

use crate::harness::{Frontend, OK, Request, Setup, pattern};

const WRITEBACK: u32 = 32;
/// `FEATURES_OK`, `DRIVER`, `ACKNOWLEDGE`.
const STATUS: u64 = 8 | 2 | 1;

fn status(frontend: &mut Frontend) -> u64 {
    let reply = frontend.exchange(FrontendReq::GET_STATUS, &[]);
    u64::from_ne_bytes(reply.try_into().unwrap())
}

fn set_status(frontend: &mut Frontend, status: u64) {
    assert!(frontend.acknowledged(FrontendReq::SET_STATUS, &status.to_ne_bytes(), &[]));
}

fn resets_under_load(reset: impl Fn(&mut Frontend)) {
    let mut vm = Setup::disk(64 << 20).options(&["--num-queues", "4"]).connect();
    let features = vm.frontend.protocol.get_features().unwrap();
    for round in 0..10 {
        vm.frontend.protocol.set_features(features).unwrap();
        set_status(&mut vm.frontend, STATUS);
        assert_eq!(status(&mut vm.frontend), STATUS);
        vm.frontend.protocol.set_config(WRITEBACK, VhostUserConfigFlags::WRITABLE, &[0]).unwrap();
        let mut queues: Vec<_> = (0..4).map(|index| vm.frontend.queue_of_size(index, 64)).collect();
        let buffer = vm.memory.allocate(256 << 10);
        for (index, queue) in (0..).zip(&mut queues) {
            vm.memory.write(buffer, &pattern(round, 256 << 10));
            for request in 0..20 {
                queue.submit(&Request::write((index * 20 + request) * 512, &[(buffer, 256 << 10)]));
            }
            queue.kick();
        }
        reset(&mut vm.frontend);
        assert_eq!(status(&mut vm.frontend), 0);
        for queue in &mut queues {
            // requests in progress are completed, and no others
            while let Some(completion) = queue.take_completion() {
                assert_eq!(completion.status, OK);
            }
            let used = queue.driver().used_index();
            queue.kick();
            assert_eq!(queue.driver().used_index(), used);
        }
        assert_eq!(vm.frontend.config(WRITEBACK, 1), Some(vec![1]), "what the driver chose is gone");
        // the old rings are forgotten: enabled again, a queue has no ring to serve
        vm.frontend.protocol.set_vring_enable(0, true).unwrap();
        vm.frontend.protocol.set_vring_kick(0, queues[0].kick_fd()).unwrap();
        queues[0].kick();
        // but where it stood can still be asked, which QEMU 7.2 does only now
        let stood = u32::from(queues[0].driver().used_index());
        assert_eq!(vm.frontend.protocol.get_vring_base(0).unwrap(), stood);
        vm.frontend.protocol.set_vring_base(0, 0).unwrap();
        assert_eq!(vm.frontend.protocol.get_vring_base(0).unwrap(), 0);
    }
    vm.stop_clean();
}

#[test]
fn a_reset_message_under_load_stops_the_queues() {
    resets_under_load(|frontend| {
        assert!(frontend.acknowledged(FrontendReq::RESET_DEVICE, &[], &[]));
    });
}

#[test]
fn a_status_of_zero_under_load_stops_the_queues() {
    resets_under_load(|frontend| set_status(frontend, 0));
}

#[test]
fn reset_owner_stops_the_rings_and_keeps_the_connection() {
    let mut vm = Setup::disk(16 << 20).connect();
    for seed in 0..3 {
        let mut queue = vm.frontend.queue(0);
        queue.write(0, &pattern(seed, 4096));
        assert!(vm.frontend.acknowledged(FrontendReq::RESET_OWNER, &[], &[]));
        let used = queue.driver().used_index();
        queue.submit(&Request::flush());
        queue.kick();
        assert_eq!(vm.frontend.config(0, 60).unwrap().len(), 60);
        assert_eq!(queue.driver().used_index(), used);
    }
}
