//! Sessions of a front-end that says anything: see the fuzz target of the same name.
//!
//! A seed decides what is said, not the timing of the threads. `STABLEBLK_MESSAGES` is how many
//! messages are sent at least.

#[path = "../corpus.rs"]
mod corpus;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../../backend/fuzz/src/disk.rs"]
mod disk;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../../integrity/fuzz/src/input.rs"]
mod input;
#[expect(unreachable_pub, reason = "public in the fuzzers' crate")]
#[path = "../../backend/fuzz/src/messages/mod.rs"]
mod messages;

mod dead_worker;
mod no_descriptors;
mod notices;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use std::{env, fs};

use fastrand::Rng;

use self::messages::Tally;

/// Open files are counted, which other tests must not change.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn the_corpus_ends_no_process() {
    let _alone = alone();
    corpus::replay(env!("CARGO_MANIFEST_DIR"), "messages", messages::run);
}

#[test]
fn random_messages_end_no_process_and_leave_no_file_open() {
    let _alone = alone();
    let wanted = env::var("STABLEBLK_MESSAGES").map_or(10_000, |count| count.parse().unwrap());
    let speak = |seed| {
        let mut input = vec![0; 8192];
        Rng::with_seed(seed).fill(&mut input);
        messages::talk(&input)
    };
    // the first one leaves what is made once
    speak(0);
    let (before, start) = (open_files(), Instant::now());
    let (mut total, mut seed) = (Tally::default(), 1);
    // on a busy machine sessions end before much is served; then it takes more of them
    while total.messages < wanted || total.requests <= wanted / 100 {
        assert!(total.messages < 20 * wanted, "hardly any queue was served: {total:?}");
        println!("seed {seed}");
        let tally = speak(seed);
        total.messages += tally.messages;
        total.sessions += tally.sessions;
        total.requests += tally.requests;
        assert_eq!(open_files(), before, "seed {seed} has left files open");
        seed += 1;
    }
    println!("{total:?} in {:?}; {before} open files before and after", start.elapsed());
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
