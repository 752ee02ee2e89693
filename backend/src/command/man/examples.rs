//! The section EXAMPLES.

use roff::{Roff, bold, roman};

use super::Place;

/// Command lines without the program, and what each does. A page has those with its subcommands.
pub const EXAMPLES: &[(&str, &str)] = &[
    (
        "--socket-path /run/vm/disk.sock --blk-file disk.img --control /run/stableblk/vm.control",
        "Serve an image, with a control socket",
    ),
    (
        "--socket-path /run/vm/disk.sock --blk-file disk.img --socket-group kvm",
        "Let QEMU run as another user, as libvirt does",
    ),
    (
        "--socket-path /run/vm/disk.sock --blk-file /dev/nvme0n1",
        "Serve a namespace with protection information of its own",
    ),
    ("--socket-path /run/vm/disk.sock --blk-file disk.img --limit iops=500,write-bps=10M", "Limit the guest"),
    ("create disk.img --size 10G", "Make a sparse image and its sidecar"),
    ("protect old.img", "Read an image once, and make its sidecar"),
    ("protect old.img --guard t10 --interval 512", "Use the guard and the interval of SCSI disks"),
    ("check disk.img", "Verify every block"),
    ("check --recover disk.img", "Recover after a crash first, as serving does"),
    ("check --svg map.svg disk.img", "Also draw a map of the disk"),
    ("copy disk.img copy.img", "Copy both files, and verify each block"),
    ("accept disk.img --adopted", "Accept blocks that were adopted after a crash"),
    ("accept disk.img --force", "Accept an image and a sidecar of two moments as a pair"),
    ("accept disk.img --lba 5-9", "Accept what five damaged blocks hold"),
    ("restore disk.img --from backup.img", "Take all damaged blocks from a backup, if their guards fit"),
    ("rebind disk.img", "Give a copy its UUID back"),
    ("info disk.img --json", "Show the format, the guard and the state, for a script"),
    ("resize disk.img --size 20G", "Grow image and sidecar"),
    ("ctl /run/stableblk/vm.control status", "Show the front-end, requests, errors and latencies"),
    ("ctl /run/stableblk/vm.control metrics", "Print the metrics once"),
    ("ctl /run/stableblk/vm.control resize --size 20G", "Grow the guest's disk while it runs"),
    ("ctl /run/stableblk/vm.control flush", "Make all completed writes durable"),
    ("ctl /run/stableblk/vm.control drain", "Wait for all requests accepted so far"),
    ("ctl /run/stableblk/vm.control freeze", "Hold image and sidecar still for a snapshot of both"),
    ("ctl /run/stableblk/vm.control thaw", "Continue; a failure means that the snapshot is of no use"),
    ("ctl /run/stableblk/vm.control damage", "List the blocks that have failed verification"),
    ("ctl /run/stableblk/vm.control scrub start --wait", "Verify the whole disk, and wait for the result"),
    ("ctl /run/stableblk/vm.control scrub status", "Show how far it is"),
    ("ctl /run/stableblk/vm.control scrub stop", "Stop it"),
    ("ctl /run/stableblk/vm.control accept --lba 5-9", "Accept what five damaged blocks hold"),
    ("ctl /run/stableblk/vm.control limit iops=500", "Limit the requests a second"),
    ("ctl /run/stableblk/vm.control slow-ms 100", "Log requests that take longer than 100 ms"),
    ("ctl /run/stableblk/vm.control log-level debug", "Log more"),
    ("ctl /run/stableblk/vm.control copy copy.img", "Clone the disk at one moment, on XFS or btrfs"),
    ("exporter", "Serve the metrics of all disks at http://127.0.0.1:9713/metrics"),
    ("exporter --listen [::1]:9713", "Listen at another address"),
    ("list", "Show all disks of this host"),
    ("list --json", "Show the status of each, for a script"),
    ("top", "Show what the disks do, each second"),
    ("completions bash", "Print the script for bash"),
];

/// Whether an example belongs to the page of a command of these subcommands.
fn is_of(example: &str, subcommands: &[&str]) -> bool {
    let mut words = example.split(' ');
    match subcommands {
        [] => example.starts_with("--") || matches!(words.next(), Some("create" | "check")),
        // another word may stand between, such as the control socket
        _ => {
            words.next() == subcommands.first().copied()
                && subcommands[1..].iter().all(|sub| words.any(|word| word == *sub))
        }
    }
}

/// Writes the section.
pub(super) fn write(roff: &mut Roff, place: &Place<'_>) {
    roff.control("SH", ["EXAMPLES"]);
    let subcommands = place.words();
    for (example, text) in EXAMPLES.iter().filter(|(example, _)| is_of(example, &subcommands)) {
        roff.control("TP", []);
        roff.text([bold(format!("stableblk {example}"))]);
        roff.text([roman(*text)]);
    }
}
