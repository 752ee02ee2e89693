//! When the back-end interrupts the driver, and when it must not.

use virtio::{Features, request_type};

use crate::harness::{OK, Queue, Request, Setup};

/// A flush whose completion is seen in the used ring, not by an interrupt.
fn flush_by_polling(queue: &mut Queue) {
    queue.submit(&Request::flush());
    queue.kick();
    assert_eq!(queue.poll().status, OK);
}

/// A flush that must be interrupted for.
fn flush_by_interrupt(queue: &mut Queue) {
    queue.submit(&Request::flush());
    queue.kick();
    queue.wait_for_interrupt();
    assert_eq!(queue.take_completion().unwrap().status, OK);
}

#[test]
fn event_idx_is_obeyed() {
    let mut vm = Setup::disk(16 << 20).start();
    // for the first batch there is always one
    flush_by_interrupt(&mut vm.queue);
    vm.queue.driver().set_used_event(10);
    (1..10).for_each(|_| flush_by_polling(&mut vm.queue));
    assert_eq!(vm.queue.take_interrupts(), 0, "before the event index was passed");
    flush_by_interrupt(&mut vm.queue);
    (0..10).for_each(|_| flush_by_polling(&mut vm.queue));
    vm.frontend.stop(&vm.queue);
    assert_eq!(vm.queue.take_interrupts(), 0, "after the event index was passed");
}

#[test]
fn without_event_idx_the_flag_is_obeyed() {
    let mut vm = Setup::disk(16 << 20).refusing(Features::EVENT_IDX).start();
    (0..5).for_each(|_| flush_by_interrupt(&mut vm.queue));
    vm.queue.driver().suppress_interrupts();
    (0..20).for_each(|_| flush_by_polling(&mut vm.queue));
    vm.frontend.stop(&vm.queue);
    assert_eq!(vm.queue.take_interrupts(), 0);
}

#[test]
fn a_batch_of_requests_gets_one_interrupt() {
    let mut vm = Setup::disk(16 << 20).refusing(Features::EVENT_IDX).start();
    let base = vm.frontend.stop(&vm.queue);
    let buffer = vm.memory.allocate(4096);
    // answered where they are parsed, and all there before the worker looks
    for _ in 0..80 {
        vm.queue.submit(&Request::answered(request_type::GET_ID, buffer, 20));
    }
    vm.frontend.start(&vm.queue, base);
    (0..80).for_each(|_| assert_eq!(vm.queue.poll().status, OK));
    vm.frontend.stop(&vm.queue);
    assert_eq!(vm.queue.take_interrupts(), 80 / 16, "a batch is 16 requests");
}

#[test]
fn requests_complete_when_driver_and_back_end_poll() {
    let mut vm = Setup::disk(16 << 20).options(&["--poll-us", "100"]).start();
    (0..200).for_each(|_| flush_by_polling(&mut vm.queue));
    (0..200).for_each(|_| {
        vm.queue.execute(&Request::flush());
    });
}
