//! Storage that fails for a while: all that fails, fails alone, and when the storage works again,
//! so does the disk.

use std::rc::Rc;

use stableblk_integrity::sidecar::IntentMode;

use crate::host::{self, Command, Host};
use crate::recorder::Damage;
use crate::setup::Setup;

/// Blocks of a discard: its record is short, but if it fails, all of their tuples have to be
/// logged, in a quarter of the log.
const BLOCKS: usize = 4000;
const DISCARDS: usize = 6;

/// A disk for that many discards at once.
fn setup(mode: IntentMode) -> Setup {
    let blocks = BLOCKS * DISCARDS;
    let lbas = (0..blocks as u64).collect();
    Setup { interval: 512, image_size: 512 * blocks as u64, lbas, cache_pages: 400, ..Setup::small(mode) }
}

#[test]
fn writes_continue_when_the_log_was_full_of_failed_ones() {
    for mode in [IntentMode::Region, IntentMode::Block] {
        let setup = setup(mode);
        let media = setup.recorder(setup.created(), Rc::new(setup.unwritten()));
        let opened = host::open(&setup, &media).expect("a session");
        let mut host = Host::new(&setup, &media, opened, setup.unwritten(), 0);
        for first in (0..DISCARDS).map(|discard| discard * BLOCKS) {
            host.submit(Command::Discard, first..first + BLOCKS);
        }
        host.write_halves();
        media.fail(0, u64::MAX, Damage::None, 5);
        for _ in 0..20 {
            host.go_on();
            host.work(false);
        }
        media.heal();
        host.finish_requests().expect("what has failed is over");
        host.submit(Command::Write, 0..2);
        host.finish(&(0..2)).expect("a write is done");
        host.begin_flush();
        host.finish_flushes().expect("a flush is done");
        host.read_all().expect("blocks are good");
        assert!(host.promised()[0].versions.len() == 1, "the write was not flushed");
        assert_eq!(host.close(), Ok(true));
    }
}
