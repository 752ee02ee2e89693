//! kill -9 under load, over and over on the same disk: whatever was complete is there, everything
//! can be read, `check` is clean.

use std::collections::BTreeSet;
use std::time::Duration;
use std::{env, fs, thread};

use fastrand::Rng;
use load::{History, Load, Plan};
use rustix::process::Signal;

use crate::harness::{Backend, Image, Process, serve_command};

const CYCLES: u32 = 100;
/// How many there may be until they have been through all that is to be tested, which depends on
/// how fast the machine is.
const CYCLES_MAX: u32 = 1000;
/// Small, so that its log of 256 pages goes round.
const SIZE: u64 = 4 << 20;
const SECTORS: u64 = SIZE / 512;
/// The pages of the log of an image of that size.
const LOG_PAGES: u64 = 256;
const INTERVAL: usize = 4096;
/// Longer than the log may rest before its checkpoint begins.
const REST: Duration = Duration::from_millis(2100);

/// The events of the cycles, to see that they did test something.
#[derive(Debug, Default)]
struct Tally {
    kills_in_flight: u32,
    kills_after_flush: u32,
    adopted_blocks: usize,
    /// That the log has had so far.
    log_pages: u64,
}

impl Tally {
    fn is_enough(&self) -> bool {
        self.kills_in_flight > CYCLES / 4
            && self.kills_after_flush > CYCLES / 8
            && self.log_pages > 2 * LOG_PAGES
    }
}

fn survives_kills(intent: &str) {
    let seed =
        env::var("STABLEBLK_KILL_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("intents by {intent}, STABLEBLK_KILL_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let image = Image::create(SIZE);
    let (mut history, mut adopted) = (History::new(SECTORS), BTreeSet::new());
    let mut tally = Tally::default();
    for cycle in 0..CYCLES_MAX {
        if cycle >= CYCLES && tally.is_enough() {
            break;
        }
        if cycle % 4 == 3 {
            kill_while_it_starts(&image, intent, &mut rng);
        }
        let backend = Backend::serve(&image, &["--intent", intent]);
        let before = history.newest();
        let mut load = Load::start(backend.socket(), history).unwrap();
        load.read_all();
        let steps = 1 << rng.u32(..11);
        Plan::new(rng.u64(..), SECTORS).take(steps).for_each(|step| load.submit(step));
        if cycle % 40 == 39 {
            // its checkpoint begins when the disk is at rest
            load.drain();
            thread::sleep(REST);
        }
        // mostly at once: a fast machine has nothing in flight any more after some hundred
        // microseconds
        thread::sleep(Duration::from_micros(rng.u64(..2000) >> rng.u32(..12)));
        backend.kill();
        load.collect();

        let (in_flight, complete, flushed) = (load.in_flight(), load.complete_through(), load.flushed());
        tally.kills_in_flight += u32::from(in_flight > 0);
        tally.kills_after_flush += u32::from(flushed > before);
        tally.log_pages = log_tail(&image);
        history = load.into_history();
        let report = image.check(if rng.bool() { &["--recover"] } else { &[] });
        assert_eq!(report.bad_blocks(), [], "cycle {cycle}");
        let now = report.adopted_blocks();
        let in_doubt =
            history.blocks_changed_after(if intent == "block" { complete } else { flushed }, INTERVAL);
        for lba in now.difference(&adopted) {
            assert!(
                in_doubt.contains(lba),
                "cycle {cycle}: block {lba} is adopted, though it was in no doubt"
            );
        }
        tally.adopted_blocks += now.difference(&adopted).count();
        adopted = now;
    }
    println!("{tally:?}");
    assert!(tally.is_enough(), "something was hardly tested: {tally:?}");
}

/// SIGKILL before it serves: in its recovery, or before that or after it.
fn kill_while_it_starts(image: &Image, intent: &str, rng: &mut Rng) {
    let socket = image.directory().join("socket");
    let mut starting = Process::start(&mut serve_command(&socket, image, &["--intent", intent]));
    thread::sleep(Duration::from_micros(rng.u64(..30_000)));
    starting.signal(Signal::KILL);
    starting.wait();
    // fails when it was killed before it listened
    let _ = fs::remove_file(socket);
}

/// The page of the log that counts the sessions' pages: how far it has come.
fn log_tail(image: &Image) -> u64 {
    image.json("info")["log"]["tail"].as_u64().unwrap()
}

#[test]
fn no_data_is_lost_by_kills_with_intents_by_region() {
    survives_kills("region");
}

#[test]
fn no_data_is_lost_by_kills_with_intents_by_block() {
    survives_kills("block");
}
