//! When the back-end interrupts the driver, and when it must not.

use virtio::{Features, request_type};

use crate::harness::{Backend, Frontend, GuestMemory, Image, OK, Queue, Request};

/// A flush whose completion is seen in the used ring, not by an interrupt.
fn flush_by_polling(queue: &mut Queue<'_>) {
    queue.submit(&Request::flush());
    queue.kick();
    assert_eq!(queue.poll().status, OK);
}

/// A flush that must be interrupted for.
fn flush_by_interrupt(queue: &mut Queue<'_>) {
    queue.submit(&Request::flush());
    queue.kick();
    queue.wait_for_interrupt();
    assert_eq!(queue.take_completion().unwrap().status, OK);
}

#[test]
fn event_idx_is_obeyed() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    // for the first batch there is always one
    flush_by_interrupt(&mut queue);
    queue.driver().set_used_event(10);
    (1..10).for_each(|_| flush_by_polling(&mut queue));
    assert_eq!(queue.take_interrupts(), 0, "before the event index was passed");
    flush_by_interrupt(&mut queue);
    (0..10).for_each(|_| flush_by_polling(&mut queue));
    frontend.stop(&queue);
    assert_eq!(queue.take_interrupts(), 0, "after the event index was passed");
}

#[test]
fn without_event_idx_the_flag_is_obeyed() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect_without(&backend, &memory, Features::EVENT_IDX);
    let mut queue = frontend.queue(0);
    (0..5).for_each(|_| flush_by_interrupt(&mut queue));
    queue.driver().suppress_interrupts();
    (0..20).for_each(|_| flush_by_polling(&mut queue));
    frontend.stop(&queue);
    assert_eq!(queue.take_interrupts(), 0);
}

#[test]
fn one_interrupt_for_a_batch() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect_without(&backend, &memory, Features::EVENT_IDX);
    let mut queue = frontend.queue(0);
    let base = frontend.stop(&queue);
    let buffer = memory.allocate(4096);
    // answered where they are parsed, and all there before the worker looks
    for _ in 0..80 {
        queue.submit(&Request::answered(request_type::GET_ID, buffer, 20));
    }
    frontend.start(&queue, base);
    (0..80).for_each(|_| assert_eq!(queue.poll().status, OK));
    frontend.stop(&queue);
    assert_eq!(queue.take_interrupts(), 80 / 16, "a batch is 16 requests");
}

#[test]
fn a_driver_and_a_back_end_that_poll() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &["--poll-us", "100"]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    (0..200).for_each(|_| flush_by_polling(&mut queue));
    (0..200).for_each(|_| {
        queue.execute(&Request::flush());
    });
}
