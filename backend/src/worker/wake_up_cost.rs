//! The cost of a wake-up: how long a thread takes to run after it is woken.
//!
//! It varies by machine: in a virtual machine an idle processor is given back to the host.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// Sleepers that are woken; the cost is their median.
const SAMPLES: usize = 15;
/// How long each is left asleep, so that its processor may become idle.
const ASLEEP: Duration = Duration::from_micros(500);

/// Measures the cost, in about 10 ms. `None`: the system has no more threads.
pub fn measure() -> Option<Duration> {
    // on a thread of its own, whose processor is chosen below
    let waker = thread::Builder::new().name("wake-up-cost".to_owned()).spawn(median_cost);
    waker.ok()?.join().ok()?
}

fn median_cost() -> Option<Duration> {
    let sleepers_processors = keep_to_one_processor();
    let (wake, woken) = mpsc::channel::<Instant>();
    let (report, reported) = mpsc::channel();
    let sleeper = thread::Builder::new().name("wake-up-cost".to_owned()).spawn(move || {
        if let Some(others) = sleepers_processors {
            // at worst it sleeps beside the one that wakes it
            let _ = sched_setaffinity(None, &others);
        }
        for woken_at in woken {
            let _ = report.send(woken_at.elapsed());
        }
    });
    let sleeper = sleeper.ok()?;
    let mut costs: Vec<_> = (0..SAMPLES)
        .filter_map(|_| {
            thread::sleep(ASLEEP);
            wake.send(Instant::now()).ok()?;
            reported.recv().ok()
        })
        .collect();
    drop(wake);
    sleeper.join().ok()?;
    costs.sort_unstable();
    costs.get(costs.len() / 2).copied()
}

/// Keeps the calling thread on its processor, and returns the others that it might use. A thread
/// that is woken on the processor of its waker costs next to nothing. That does not happen to a
/// worker: the guest or the disk that wakes it continues on its own processor.
fn keep_to_one_processor() -> Option<CpuSet> {
    let mut others = sched_getaffinity(None).ok()?;
    let here = sched_getcpu();
    others.unset(here);
    let mut one = CpuSet::new();
    one.set(here);
    (others.count() > 0 && sched_setaffinity(None, &one).is_ok()).then_some(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waking_takes_time_and_leaves_the_caller_where_it_may_be() {
        let before = sched_getaffinity(None).unwrap();
        assert!(measure().unwrap() > Duration::ZERO);
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }

    #[test]
    fn waker_and_sleeper_share_no_processor() {
        let (allowed, here, others) = thread::spawn(|| {
            let allowed = sched_getaffinity(None).unwrap();
            let others = keep_to_one_processor();
            (allowed, sched_getaffinity(None).unwrap(), others)
        })
        .join()
        .unwrap();
        match others {
            Some(others) => {
                assert_eq!(here.count(), 1);
                assert_eq!(others.count(), allowed.count() - 1);
                assert!((0..CpuSet::MAX_CPU).all(|cpu| !(here.is_set(cpu) && others.is_set(cpu))));
            }
            None => assert_eq!(allowed.count(), 1),
        }
    }
}
