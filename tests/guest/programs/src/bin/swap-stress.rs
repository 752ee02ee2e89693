//! Makes the guest swap and checks what comes back: `swap-stress MIB PASSES`.
//!
//! Stamps MIB mebibytes, more than the guest has memory; each pass verifies page after page and
//! stamps it again. Prints one line of JSON: the pages verified, those that were wrong, and the
//! guest's own count of pages swapped out and in.

use std::fs;

use guest_programs::{Pages, arguments, number};

fn main() -> Result<(), String> {
    let [mib, passes] = arguments("swap-stress MIB PASSES")?;
    let memory = Pages::new(number::<usize>(&mib)? * 256);
    let passes: u64 = number(&passes)?;
    stamp(&memory, 0);
    let wrong: u64 = (0..passes).map(|pass| verify_and_stamp(&memory, pass)).sum();
    let verified = passes * memory.len() as u64;
    let (out, back) = (vmstat("pswpout")?, vmstat("pswpin")?);
    println!(
        r#"{{"pages_verified":{verified},"pages_wrong":{wrong},"pages_swapped_out":{out},"pages_swapped_in":{back}}}"#
    );
    if wrong == 0 { Ok(()) } else { Err(format!("{wrong} pages came back changed")) }
}

fn stamp(memory: &Pages, pass: u64) {
    for (page, number) in memory.iter().zip(0..) {
        page.stamp(pass, number);
    }
}

/// One sweep for both, since every sweep moves the whole memory through the disk. Returns how many
/// pages were wrong.
fn verify_and_stamp(memory: &Pages, pass: u64) -> u64 {
    let mut wrong = 0;
    for (page, number) in memory.iter().zip(0..) {
        wrong += u64::from(!page.is_stamped(pass, number));
        page.stamp(pass + 1, number);
    }
    wrong
}

/// A counter of /proc/vmstat, in pages since boot.
fn vmstat(name: &str) -> Result<u64, String> {
    let text = fs::read_to_string("/proc/vmstat").map_err(|error| format!("/proc/vmstat: {error}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    number(value.ok_or_else(|| format!("/proc/vmstat has no {name}"))?)
}
