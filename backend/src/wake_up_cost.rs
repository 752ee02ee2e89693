//! What it costs to sleep: how long a thread takes to run after it is woken.
//!
//! That depends on the machine more than on us: in a virtual machine an idle processor is given back to the host.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Sleepers that are woken; the cost is their median.
const SAMPLES: usize = 15;
/// How long each is left asleep, so that its processor may become idle.
const ASLEEP: Duration = Duration::from_micros(500);

/// Measures it, in about 10 ms. `None`: there can be no more threads.
pub fn measure() -> Option<Duration> {
    let (wake, woken) = mpsc::channel::<Instant>();
    let (tell, told) = mpsc::channel();
    let sleeper = thread::Builder::new().name("wake-up-cost".to_owned()).spawn(move || {
        for woken_at in woken {
            let _ = tell.send(woken_at.elapsed());
        }
    });
    let sleeper = sleeper.ok()?;
    let mut costs: Vec<_> = (0..SAMPLES)
        .filter_map(|_| {
            thread::sleep(ASLEEP);
            wake.send(Instant::now()).ok()?;
            told.recv().ok()
        })
        .collect();
    drop(wake);
    sleeper.join().ok()?;
    costs.sort_unstable();
    costs.get(costs.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waking_takes_time() {
        assert!(measure().unwrap() > Duration::ZERO);
    }
}
