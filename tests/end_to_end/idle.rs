//! A guest that asks for nothing costs nothing.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Setup, TIME_LIMIT, pattern};

/// Longer than any timer that a thread would wake up by.
const WINDOW: Duration = Duration::from_secs(2);

/// How often threads of the process have slept or been interrupted so far.
fn context_switches(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // one that has just ended has none
    let status = threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).ok());
    let of_thread = |status: String| -> u64 {
        let counts = status.lines().filter(|line| line.contains("ctxt_switches:"));
        counts.map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap()).sum()
    };
    status.map(of_thread).sum()
}

#[test]
fn an_idle_guest_causes_no_wake_up() {
    for poll in [&[][..], &["--poll-us", "0"], &["--poll-us", "1000"]] {
        let mut vm = Setup::disk(16 << 20).options(poll).connect();
        let mut queues = [vm.frontend.queue(0), vm.frontend.queue(1)];
        for sector in (0..80).step_by(8) {
            for queue in &mut queues {
                queue.write(sector, &pattern(sector, 4096));
                queue.flush();
            }
        }
        let start = Instant::now();
        loop {
            let before = context_switches(vm.backend.pid());
            thread::sleep(WINDOW);
            if context_switches(vm.backend.pid()) == before {
                break;
            }
            assert!(start.elapsed() < TIME_LIMIT, "it does not come to rest with {poll:?}");
        }
        // and it wakes up again
        for queue in &mut queues {
            assert_eq!(queue.read(8, 4096), pattern(8, 4096));
        }
    }
}
