//! Two threads race for the moment in which one falls asleep and the other decides that it need not
//! be woken. Where a fence is missing on either side, some round ends with the sleeper asleep for
//! ever.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{RING_SIZE, guest_memory, ring_of_single_bytes, serve};

const ROUNDS: u32 = 20_000;
/// How far a side delays its decision, to meet the other's at every distance.
const DELAY_MAX: u32 = 64;

/// Waits for the other thread: spinning, to keep the race tight, but not for longer than that takes
/// where both threads share a processor.
fn wait_until(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(120), "a wake-up was lost");
        if start.elapsed() > Duration::from_micros(20) {
            std::thread::yield_now();
        }
    }
}

/// The signal that wakes a sleeper.
#[derive(Default)]
struct Bell {
    rung: AtomicU32,
}

impl Bell {
    fn count(&self) -> u32 {
        self.rung.load(Ordering::Acquire)
    }

    fn ring(&self) {
        self.rung.fetch_add(1, Ordering::Release);
    }

    /// Sleeps unless the bell rang since it was at `count`.
    fn wait(&self, count: u32) {
        wait_until(|| self.count() != count);
    }
}

fn delay(round: u32) {
    for _ in 0..round % DELAY_MAX {
        std::hint::spin_loop();
    }
}

fn head(round: u32) -> u16 {
    u16::try_from(round % u32::from(RING_SIZE)).unwrap()
}

#[test]
fn no_interrupt_is_lost() {
    let mem = guest_memory();
    let (mut driver, mut ring) = ring_of_single_bytes(&mem, true, 0);
    let interrupt = Bell::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                wait_until(|| serve(&mut ring, &mem) == 1);
                if ring.publish(&mem).unwrap() {
                    interrupt.ring();
                }
            }
        });
        for round in 0..ROUNDS {
            let used_index = driver.used_index();
            driver.set_used_event(used_index.wrapping_sub(1));
            driver.make_available(head(round));
            delay(round);
            driver.set_used_event(used_index);
            let mut count = interrupt.count();
            while driver.take_used().is_none() {
                interrupt.wait(count);
                count = interrupt.count();
            }
        }
    });
}

#[test]
fn no_notification_is_lost() {
    let mem = guest_memory();
    let (mut driver, mut ring) = ring_of_single_bytes(&mem, true, 0);
    let notification = Bell::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut served = 0;
            while served < ROUNDS {
                let count = notification.count();
                served += u32::from(serve(&mut ring, &mem));
                ring.publish(&mem).unwrap();
                delay(served);
                if served < ROUNDS && !ring.enable_notifications(&mem).unwrap() {
                    notification.wait(count);
                }
            }
        });
        for round in 0..ROUNDS {
            driver.make_available(head(round));
            if driver.wants_notification() {
                notification.ring();
            }
            wait_until(|| driver.take_used().is_some());
        }
    });
}
