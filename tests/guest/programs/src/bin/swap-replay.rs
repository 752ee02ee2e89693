//! Does on a vhost-user disk what a kernel did on another one: `swap-replay SOCKET TRACE`.
//!
//! TRACE has a line for each request, in the order in which the kernel issued them: `R` or `W`,
//! first sector and sectors. Written pages are stamped with their place and the number of their
//! writing, and like those of a process that is swapped out they change meanwhile: a thread stores
//! to a word of each of their sectors without a pause. The data read must be the data written last,
//! except for those words. Prints one line of JSON: the requests of either kind, those that failed,
//! pages that were verified and that were wrong.

use std::{collections::HashMap, fs};

use guest_programs::vhost_disk::{Action, Queues, Request, VhostDisk};
use guest_programs::{Page, arguments, number, while_rewriting};

/// The limit of bytes in flight.
const WINDOW: usize = 4 << 20;
const SECTOR: u64 = 512;

fn main() -> Result<(), String> {
    let [socket, trace] = arguments("swap-replay SOCKET TRACE")?;
    let trace = fs::read_to_string(&trace).map_err(|error| format!("{trace}: {error}"))?;
    let mut disk = VhostDisk::connect(&socket, WINDOW)?;
    let (memory, queues) = disk.parts();
    let mut replay = Replay {
        memory,
        queues,
        batch: Vec::new(),
        filled: 0,
        writings: HashMap::new(),
        tally: Tally::default(),
    };
    while_rewriting(memory, || {
        for line in trace.lines() {
            replay.add(line)?;
        }
        replay.perform()
    })?;
    replay.queues.flush()?;
    let Tally { reads, writes, failed, verified, wrong } = replay.tally;
    println!(
        r#"{{"reads":{reads},"writes":{writes},"failed":{failed},"pages_verified":{verified},"pages_wrong":{wrong}}}"#
    );
    Ok(())
}

#[derive(Default)]
struct Tally {
    reads: usize,
    writes: usize,
    failed: usize,
    verified: usize,
    wrong: usize,
}

struct Replay<'a> {
    memory: &'a [Page],
    queues: &'a mut Queues,
    /// In flight together: none of these touches the pages of another.
    batch: Vec<Request>,
    /// Bytes of the memory that the batch has.
    filled: usize,
    /// How often each page of the disk was written.
    writings: HashMap<u64, u64>,
    tally: Tally,
}

impl Replay<'_> {
    fn add(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        let &[kind, sector, sectors] = &words[..] else { return Err(format!("{line}: no request")) };
        let (offset, len) = (number::<u64>(sector)? * SECTOR, number::<u64>(sectors)? * SECTOR);
        let len = usize::try_from(len).map_err(|error| format!("{line}: {error}"))?;
        let page = Page::BYTES as u64;
        if !offset.is_multiple_of(page) || !len.is_multiple_of(Page::BYTES) || len == 0 || len > WINDOW {
            return Err(format!("{line}: no whole pages"));
        }
        let end = offset + len as u64;
        let touches = |other: &Request| other.offset < end && offset < other.offset + other.len as u64;
        if self.filled + len > WINDOW || self.batch.iter().any(touches) {
            self.perform()?;
        }
        let action = if kind == "W" { Action::Write } else { Action::Read };
        let request = Request { action, offset, len, memory: self.filled };
        self.filled += len;
        for (page, number) in pages(self.memory, &request) {
            if action == Action::Write {
                let writing = self.writings.entry(number).or_default();
                *writing += 1;
                page.stamp(*writing, number);
            } else {
                page.stamp(u64::MAX, number);
            }
        }
        self.batch.push(request);
        Ok(())
    }

    /// Does what has been gathered, and looks at what was read.
    fn perform(&mut self) -> Result<(), String> {
        let mut failed = 0;
        self.queues.perform(&self.batch, |request, result| {
            failed += 1;
            eprintln!("swap-replay: {request:?}: {result}");
        })?;
        self.tally.failed += failed;
        for request in self.batch.drain(..) {
            if request.action == Action::Write {
                self.tally.writes += 1;
                continue;
            }
            self.tally.reads += 1;
            for (page, number) in pages(self.memory, &request) {
                // sectors that were never written may have any content
                let Some(writing) = self.writings.get(&number) else { continue };
                self.tally.verified += 1;
                self.tally.wrong += usize::from(!page.is_stamped_but_touched(*writing, number));
            }
        }
        self.filled = 0;
        Ok(())
    }
}

/// The pages of memory of a request, each with the number of its page of the disk.
fn pages<'a>(memory: &'a [Page], request: &Request) -> impl Iterator<Item = (&'a Page, u64)> + use<'a> {
    let first = request.memory / Page::BYTES;
    memory[first..first + request.len / Page::BYTES].iter().zip(request.offset / Page::BYTES as u64..)
}
