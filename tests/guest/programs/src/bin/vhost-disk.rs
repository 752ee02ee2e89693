//! A driver for a back-end that runs in this same guest: `vhost-disk SOCKET [ACTION START LEN
//! SEED]...`, in bytes.
//!
//! `write` stamps the pages of a range and `verify` reads them back, in requests of many sizes;
//! `discard`, `zero` (space is kept) and `unmap` (it is not) make a range zeros, `verify-zeros`
//! reads that back. `rewrite` writes the range in requests of 16 KiB while another thread changes
//! the buffers without a pause, and `read` reads it, whatever it holds, in the same requests.
//! Prints a JSON array with an object for each action: its requests, those that failed, pages that
//! are wrong.

use std::fmt;

use guest_programs::vhost_disk::{Action, Queues, REQUESTS, Request, VhostDisk};
use guest_programs::{Page, number, while_rewriting};

/// The limit of bytes in flight.
const WINDOW: usize = 4 << 20;
/// Lengths of requests: sectors, pages and more, across intervals, and up to the largest folio.
const LENGTHS: [usize; 7] = [1 << 20, 4096, 512, 3584, 65536, 12288, 8192];

/// Length of the requests that are rewritten: long enough for the other thread to reach them in
/// time, also on a busy machine.
const REWRITTEN: usize = 16384;

#[derive(Default)]
struct Tally {
    requests: usize,
    failed: usize,
    pages_wrong: usize,
}

fn main() -> Result<(), String> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (Some(socket), actions) = (words.first(), words.get(1..).unwrap_or_default().chunks(4)) else {
        return Err("usage: vhost-disk SOCKET [ACTION START LEN SEED]...".to_owned());
    };
    let mut disk = VhostDisk::connect(socket, WINDOW)?;
    let (memory, queues) = disk.parts();
    let tallies: Result<Vec<String>, String> = actions
        .map(|words| match words {
            [action, start, len, seed] => {
                let tally = perform(memory, queues, action, number(start)?, number(len)?, number(seed)?)?;
                Ok(tally.to_string())
            }
            _ => Err(format!("{words:?}: no action, start, length and seed")),
        })
        .collect();
    println!("[{}]", tallies?.join(","));
    Ok(())
}

fn perform(
    memory: &[Page],
    queues: &mut Queues,
    action: &str,
    start: u64,
    len: usize,
    seed: u64,
) -> Result<Tally, String> {
    let mut tally = Tally::default();
    // all requests that the other thread rewrites are in flight, so that it has time on a busy
    // machine
    let window = if action == "rewrite" { REWRITTEN * REQUESTS } else { WINDOW };
    for done in (0..len).step_by(window) {
        let (offset, len) = (start + done as u64, window.min(len - done));
        let (pages, first) = (&memory[..len / Page::BYTES], offset / Page::BYTES as u64);
        let stamp = |seed| pages.iter().zip(first..).for_each(|(page, number)| page.stamp(seed, number));
        let mut perform =
            |action, lengths: &[usize]| tally.perform(queues, &cut(action, offset, len, lengths));
        match action {
            "write" => {
                stamp(seed);
                perform(Action::Write, &LENGTHS)?;
            }
            "verify" => {
                stamp(!seed);
                perform(Action::Read, &LENGTHS)?;
                let stamped =
                    pages.iter().zip(first..).filter(|(page, number)| page.is_stamped(seed, *number));
                tally.pages_wrong += pages.len() - stamped.count();
            }
            "verify-zeros" => {
                stamp(seed);
                perform(Action::Read, &LENGTHS)?;
                tally.pages_wrong += pages.iter().filter(|page| !page.is_zero()).count();
            }
            "discard" => perform(Action::Discard, &[len])?,
            "zero" => perform(Action::WriteZeroes { may_unmap: false }, &[len])?,
            "unmap" => perform(Action::WriteZeroes { may_unmap: true }, &[len])?,
            "rewrite" => while_rewriting(pages, || perform(Action::Write, &[REWRITTEN]))?,
            "read" => perform(Action::Read, &[REWRITTEN])?,
            other => return Err(format!("{other}: no such action")),
        }
    }
    if ["write", "rewrite"].contains(&action) {
        queues.flush()?;
    }
    Ok(tally)
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, failed, pages_wrong } = self;
        write!(f, r#"{{"requests":{requests},"failed":{failed},"pages_wrong":{pages_wrong}}}"#)
    }
}

impl Tally {
    fn perform(&mut self, queues: &mut Queues, requests: &[Request]) -> Result<(), String> {
        self.requests += requests.len();
        queues.perform(requests, |request, result| {
            self.failed += 1;
            if self.failed == 1 {
                eprintln!("vhost-disk: {request:?}: {result}");
            }
        })
    }
}

/// Requests that cover `len` bytes of the disk from `start` on, one behind another, with memory in
/// the same order.
fn cut(action: Action, start: u64, len: usize, lengths: &[usize]) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut done = 0;
    for length in lengths.iter().cycle() {
        if done == len {
            break;
        }
        let length = (*length).min(len - done);
        requests.push(Request { action, offset: start + done as u64, len: length, memory: done });
        done += length;
    }
    requests
}
