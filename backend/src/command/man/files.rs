//! The section FILES.

use roff::{Roff, italic, roman};

use super::Place;

type Files = &'static [(&'static str, &'static str)];

const IMAGE: Files = &[
    ("IMAGE", "the raw image, a file or a device"),
    (
        "IMAGE.pi",
        "its sidecar, with a tuple of protection information for each block; --integrity names another",
    ),
];
const SOCKETS: Files = &[(
    "/run/stableblk/NAME.control",
    "the control socket of the disk NAME, as the systemd units make it; --control of a disk names another",
)];
const PROGRAM: Files = &[
    (
        "/etc/stableblk/NAME.conf",
        "what stableblk@NAME.service serves: IMAGE=PATH, and OPTIONS= with further options",
    ),
    (
        "/usr/lib/systemd/system/stableblk@.service",
        "serves the disk NAME; also stableblk@.socket, stableblk-scrub@.timer, stableblk-exporter.service",
    ),
    ("/usr/share/qemu/vhost-user/50-stableblk.json", "tells management software what this back-end can do"),
    ("/usr/share/doc/stableblk/qemu-configs", "complete configurations for QEMU and libvirt"),
    (
        "/usr/share/stableblk",
        "alert rules and a scrape configuration for Prometheus, and a dashboard for Grafana",
    ),
];
const COPIES: Files = &[("COPY, COPY.pi", "the image and the sidecar that are made")];
const METRICS: Files = &[(
    "/usr/share/stableblk",
    "alert rules and a scrape configuration for Prometheus, and a dashboard for Grafana",
)];
const SCRIPTS: Files = &[
    ("/usr/share/bash-completion/completions/stableblk", "the script for bash"),
    ("/usr/share/zsh/vendor-completions/_stableblk", "the script for zsh"),
    ("/usr/share/fish/vendor_completions.d/stableblk.fish", "the script for fish"),
];

fn of(words: &[&str]) -> Vec<Files> {
    match *words {
        [] => vec![IMAGE, SOCKETS, PROGRAM],
        ["completions"] => vec![SCRIPTS],
        ["copy"] => vec![IMAGE, COPIES],
        ["ctl", "copy"] => vec![SOCKETS, COPIES],
        ["exporter"] | ["ctl", "metrics"] => vec![SOCKETS, METRICS],
        ["ctl" | "list" | "top", ..] => vec![SOCKETS],
        _ => vec![IMAGE],
    }
}

/// Writes the section.
pub(super) fn write(roff: &mut Roff, place: &Place<'_>) {
    roff.control("SH", ["FILES"]);
    for (file, text) in of(&place.words()).into_iter().flatten() {
        roff.control("TP", []);
        roff.text([italic(*file)]);
        roff.text([roman(*text)]);
    }
}
