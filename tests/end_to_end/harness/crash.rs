//! A back-end that is killed while its log still counts.

use super::{Backend, Frontend, GuestMemory, Image, Queue};

/// Serves `image` with `args`, does `work` and kills the back-end, until that leaves `pages` pages in the log: it may have brought
/// them to the tuple array first. `work` is given a number that is another each time; returns the last.
pub(crate) fn crash(image: &Image, args: &[&str], pages: u64, work: impl Fn(&mut Queue<'_>, u64)) -> u64 {
    for attempt in 1..100 {
        let backend = Backend::serve(image, args);
        let memory = GuestMemory::new();
        let mut frontend = Frontend::connect(&backend, &memory);
        work(&mut frontend.queue(0), attempt);
        backend.kill();
        if image.json("check")["recovery"]["log_pages"] == pages {
            return attempt;
        }
    }
    panic!("the log never has {pages} pages: {}", image.json("check"));
}
