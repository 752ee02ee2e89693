//! The section EXIT STATUS, from the text at the end of `--help` where there is one.

use roff::{Roff, bold, roman};

use super::Place;

const TITLE: &str = "Exit status: ";

/// Statuses of commands whose `--help` names none, by the first word of the command line.
const OTHERS: &[(&str, &str)] = &[
    (
        "",
        "0 after SIGTERM or SIGINT, when all requests are answered and durable, 1 when the disk cannot be \
         served, or requests or the last sync hang for 30 s at the end, 4 when image and sidecar are of two \
         moments (`stableblk accept --force`), 78 when the configuration is wrong, and another start would \
         fail in the same way",
    ),
    (
        "ctl",
        "0 when it is done, 1 when it was refused or has failed, 3 when no reply came from the socket, 4 when a scrub that was waited for has found blocks",
    ),
    ("list", "0 when all disks have replied, 1 when some have not"),
    ("resize", "0 when it is done, 1 when it was not possible, 4 when image and sidecar are of two moments"),
];
const USUAL: &str = "0 when it is done, 1 when it was not possible";
const WRONG_USAGE: &str = "2 when the command line is wrong";

/// Writes the section.
pub(super) fn write(roff: &mut Roff, place: &Place<'_>) {
    roff.control("SH", ["EXIT STATUS"]);
    let text = place.command.get_after_help().map(ToString::to_string);
    let text = text.as_deref().and_then(|text| text.trim().strip_prefix(TITLE)).unwrap_or_else(|| {
        let word = place.words().first().copied().unwrap_or_default();
        OTHERS.iter().find(|(command, _)| *command == word).map_or(USUAL, |(_, text)| text)
    });
    let text = text.trim_end_matches('.');
    let mut statuses = split(text);
    if !statuses.iter().any(|status| status.starts_with('2')) {
        statuses.push(WRONG_USAGE);
        statuses.sort_unstable();
    }
    for status in statuses {
        let (number, meaning) = status.split_once(' ').unwrap_or((status, ""));
        roff.control("TP", []);
        roff.text([bold(number)]);
        roff.text([roman(meaning)]);
    }
}

/// Splits `0 when this, 1 when that, or something else` before each number.
fn split(text: &str) -> Vec<&str> {
    let mut statuses = Vec::new();
    let mut start = 0;
    for (comma, _) in text.match_indices(", ") {
        if text[comma + 2..].starts_with(|c: char| c.is_ascii_digit()) {
            statuses.push(&text[start..comma]);
            start = comma + 2;
        }
    }
    statuses.push(&text[start..]);
    statuses
}
