//! A back-end that is killed while its log still counts.

use super::{Image, Queue, Setup};

/// Serves `image` with `args`, does `work` and kills the back-end, until that leaves `pages` pages
/// in the log: it may have brought them to the tuple array first. `work` is given a number that is
/// another each time; returns the last.
pub(crate) fn crash(image: &Image, args: &[&str], pages: u64, work: impl Fn(&mut Queue, u64)) -> u64 {
    for attempt in 1..100 {
        let mut vm = Setup::of(image).options(args).start();
        work(&mut vm.queue, attempt);
        vm.backend.kill();
        if image.json("check")["recovery"]["log_pages"] == pages {
            return attempt;
        }
    }
    panic!("the log never has {pages} pages: {}", image.json("check"));
}
