//! When the driver is interrupted, and when the device is notified (virtio 1.2, 2.7.7 and 2.7.10).

use proptest::prelude::*;
use stableblk_virtio::SplitRing;
use stableblk_virtio::testing::Driver;
use vm_memory::GuestMemoryMmap;

use crate::harness::{RING_SIZE, guest_memory, ring_of_single_bytes, serve};

/// Passes `count` chains through the ring as one batch.
fn batch(
    ring: &mut SplitRing,
    driver: &mut Driver<&GuestMemoryMmap>,
    mem: &GuestMemoryMmap,
    count: u16,
) -> bool {
    (0..count).for_each(|head| driver.make_available(head));
    assert_eq!(serve(ring, mem), count);
    ring.publish(mem).unwrap()
}

proptest! {
    /// An interrupt is sent if one of the batch's entries was placed at the index that `used_event`
    /// names.
    #[test]
    fn interrupt_follows_used_event(
        start in prop_oneof![any::<u16>(), 65500..=u16::MAX],
        batches in prop::collection::vec((1..=RING_SIZE, -20..20_i16), 1..20),
    ) {
        let mem = guest_memory();
        let (mut driver, mut ring) = ring_of_single_bytes(&mem, true, start);
        batch(&mut ring, &mut driver, &mem, 1);
        for (count, distance) in batches {
            let old = ring.next_used();
            let used_event = old.wrapping_add_signed(distance);
            driver.set_used_event(used_event);
            let expected = (0..count).any(|placed| old.wrapping_add(placed) == used_event);
            prop_assert_eq!(batch(&mut ring, &mut driver, &mem, count), expected);
        }
    }
}

/// A predecessor may have died between its used index and its interrupt.
#[test]
fn first_batch_always_interrupts() {
    let mem = guest_memory();
    let (mut driver, mut ring) = ring_of_single_bytes(&mem, true, 0);
    driver.set_used_event(1000);
    assert!(batch(&mut ring, &mut driver, &mem, 3));
    assert!(!batch(&mut ring, &mut driver, &mem, 3));
}

#[test]
fn no_interrupt_flag_is_honoured_without_event_idx() {
    let mem = guest_memory();
    let (mut driver, mut ring) = ring_of_single_bytes(&mem, false, 0);
    assert!(batch(&mut ring, &mut driver, &mem, 1));
    driver.suppress_interrupts();
    assert!(!batch(&mut ring, &mut driver, &mem, 1));
}

/// With `EVENT_IDX` the flag is to be ignored (virtio 1.2, 2.7.7.2).
#[test]
fn no_interrupt_flag_is_ignored_with_event_idx() {
    let mem = guest_memory();
    let (mut driver, mut ring) = ring_of_single_bytes(&mem, true, 0);
    batch(&mut ring, &mut driver, &mem, 1);
    driver.suppress_interrupts();
    driver.set_used_event(1);
    assert!(batch(&mut ring, &mut driver, &mem, 1));
}

#[test]
fn notifications_are_switched_by_flag_without_event_idx() {
    let mem = guest_memory();
    let (driver, mut ring) = ring_of_single_bytes(&mem, false, 0);
    ring.disable_notifications(&mem);
    assert!(driver.notifications_suppressed());
    assert!(!ring.enable_notifications(&mem).unwrap());
    assert!(!driver.notifications_suppressed());
}

#[test]
fn notifications_are_switched_by_event_index_with_event_idx() {
    let mem = guest_memory();
    let (mut driver, mut ring) = ring_of_single_bytes(&mem, true, u16::MAX);
    ring.disable_notifications(&mem);
    assert!(!driver.notifications_suppressed());
    batch(&mut ring, &mut driver, &mem, 3);
    assert!(!driver.wants_notification());
    assert!(!ring.enable_notifications(&mem).unwrap());
    assert_eq!(driver.avail_event(), 2);
    driver.make_available(0);
    assert!(driver.wants_notification());
}

/// A chain that came in between the last pop and the event index has no notification of its own.
#[test]
fn enabling_reports_chains_that_came_in_meanwhile() {
    for event_idx in [false, true] {
        let mem = guest_memory();
        let (mut driver, mut ring) = ring_of_single_bytes(&mem, event_idx, 7);
        assert_eq!(serve(&mut ring, &mem), 0);
        driver.make_available(3);
        assert!(ring.enable_notifications(&mem).unwrap());
        assert_eq!(serve(&mut ring, &mem), 1);
        assert!(!ring.enable_notifications(&mem).unwrap());
    }
}
