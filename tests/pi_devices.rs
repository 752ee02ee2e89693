//! Storage that keeps protection information itself: stableblk and a driver for it inside a guest, on emulated NVMe and SCSI devices.
//!
//! One guest has a namespace of each format. Its kernel is the independent reader: it verifies all that it reads itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use guest::{Guest, Kernel};
use serde_json::Value;

const TIME_LIMIT: Duration = Duration::from_secs(240);
const PROGRAM: &str = env!("CARGO_BIN_EXE_stableblk");
/// Of each device.
const SIZE: u64 = 24 << 20;

/// A format of an NVMe namespace, in the words of QEMU's `nvme-ns`.
#[derive(Debug, Clone, Copy)]
struct Namespace {
    name: &'static str,
    block_size: u32,
    ms: u32,
    pi: u32,
    /// The tuple is the first in the metadata.
    pil: bool,
    /// The guard has 64 bits.
    wide: bool,
    /// Data and metadata are interleaved.
    extended: bool,
}

impl Namespace {
    const fn new(name: &'static str, block_size: u32, ms: u32, pi: u32) -> Self {
        Self { name, block_size, ms, pi, pil: false, wide: false, extended: false }
    }

    const fn first(self) -> Self {
        Self { pil: true, ..self }
    }

    const fn extended(self) -> Self {
        Self { extended: true, ..self }
    }

    const fn wide(self) -> Self {
        Self { wide: true, ..self }
    }
}

/// What the kernel has a profile for. No 64b guard over 512 bytes, which NVMe does not have.
const NAMESPACES: [Namespace; 11] = [
    Namespace::new("512-t1", 512, 8, 1),
    Namespace::new("512-t2", 512, 8, 2),
    Namespace::new("512-t3", 512, 8, 3),
    Namespace::new("4k-t1", 4096, 8, 1),
    Namespace::new("4k-t3", 4096, 8, 3),
    Namespace::new("4k-t1-ms64", 4096, 64, 1),
    Namespace::new("4k-t1-ms64-first", 4096, 64, 1).first(),
    Namespace::new("512-t1-ms16", 512, 16, 1),
    Namespace::new("4k-t1-64b", 4096, 16, 1).wide(),
    Namespace::new("4k-t3-64b", 4096, 16, 3).wide(),
    Namespace::new("4k-t1-64b-ms64", 4096, 64, 1).wide(),
];

/// QEMU's configuration of a guest with these namespaces, by their place in the list from 1 on.
fn config(scratch: &Path, namespaces: &[Namespace]) -> String {
    let mut config = String::from(
        "[machine]\n  type = \"q35\"\n[memory]\n  size = \"1G\"\n[smp-opts]\n  cpus = \"4\"\n\
        [device \"nvme0\"]\n  driver = \"nvme\"\n  serial = \"stableblk\"\n",
    );
    for (nsid, namespace) in (1..).zip(namespaces) {
        let Namespace { name, block_size, ms, pi, pil, wide, extended } = *namespace;
        let image = scratch.join(format!("{name}.img"));
        let blocks = SIZE / u64::from(block_size);
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(blocks * u64::from(block_size + ms)))
            .unwrap();
        let (pil, pif, mset) = (u32::from(pil), if wide { 2 } else { 0 }, u32::from(extended));
        write!(
            config,
            "[drive \"drive{nsid}\"]\n  file = \"{}\"\n  if = \"none\"\n  format = \"raw\"\n  discard = \"unmap\"\n\
            [device \"ns{nsid}\"]\n  driver = \"nvme-ns\"\n  drive = \"drive{nsid}\"\n  bus = \"nvme0\"\n  nsid = \"{nsid}\"\n  \
            ms = \"{ms}\"\n  mset = \"{mset}\"\n  pi = \"{pi}\"\n  pil = \"{pil}\"\n  pif = \"{pif}\"\n  \
            logical_block_size = \"{block_size}\"\n  physical_block_size = \"{block_size}\"\n",
            image.display()
        )
        .unwrap();
    }
    config
}

/// Functions of the guest's script.
const PRELUDE: &str = r#"
    # ground NSID: the block device's name; numbers are given in the order of probing
    ground() { for disk in /sys/block/nvme*; do [ "$(cat "$disk/nsid")" != "$1" ] || basename "$disk"; done; }

    # report NAME STEP: labels the line of JSON on standard input
    report() { echo "$1 $2 $(cat)"; }

    # serve DEVICE OPTIONS...: until it takes connections
    serve() {
        rm -f /tmp/sock
        device=$1
        shift
        stableblk --socket-path /tmp/sock --blk-file "$device" --num-queues 2 "$@" 2>/tmp/log &
        server=$!
        until [ -S /tmp/sock ]; do
            kill -0 $server 2>/dev/null || { cat /tmp/log >&2; return 1; }
            sleep 0.05
        done
    }

    # stop: what was logged stays in /tmp/log
    stop() { kill -TERM $server && wait $server; }
    disk() { vhost-disk /tmp/sock "$@"; }
"#;

/// What the steps of a guest's script reported.
#[derive(Debug)]
struct Reports(BTreeMap<(String, String), Value>);

impl Reports {
    fn get(&self, name: &str, step: &str) -> &Value {
        let report = self.0.get(&(name.to_owned(), step.to_owned()));
        report.unwrap_or_else(|| panic!("{name} did not report {step}: {self:#?}"))
    }

    /// Checks that no request of a step failed, or returned what it should not.
    fn assert_good(&self, name: &str, step: &str) {
        let actions = self.get(name, step).as_array().unwrap();
        for action in actions {
            assert_ne!(action["requests"], 0, "{name} {step}");
            assert_eq!(
                (&action["failed"], &action["pages_wrong"]),
                (&0.into(), &0.into()),
                "{name} {step}: {actions:?}"
            );
        }
    }

    /// Checks what [`EXERCISE`] has reported.
    fn assert_exercised(&self, name: &str) {
        self.assert_good(name, "cure");
        assert_eq!(self.get(name, "independent-reader"), true);
        let defect = &self.get(name, "defect")[0];
        assert_eq!(defect["requests"], 1000);
        assert!(defect["failed"].as_u64() > Some(500), "{name} without bounce: {defect}");
        assert_eq!(self.get(name, "counted"), &defect["failed"], "{name}");
    }
}

/// Boots the guest and runs `script`.
fn run(kernel: Kernel, modules: &[&str], config: &str, script: &str) -> Reports {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("guest.cfg");
    std::fs::write(&path, config).unwrap();
    let guest = Guest {
        kernel,
        modules,
        programs: &[Path::new(PROGRAM)],
        config: path.to_str().unwrap(),
        script: &format!("{PRELUDE}\n{script}"),
        memory_limit_mib: None,
        time_limit: TIME_LIMIT,
    };
    let output = guest.run(scratch.path()).unwrap_or_else(|error| panic!("{error}"));
    let parse = |line: &str| {
        let words: Vec<_> = line.splitn(3, ' ').collect();
        let &[name, step, json] = &words[..] else { panic!("{line}") };
        let value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {line}"));
        ((name.to_owned(), step.to_owned()), value)
    };
    Reports(output.lines().map(parse).collect())
}

/// Whether the kernel is there; says so when it is not.
fn has_kernel(kernel: Kernel) -> bool {
    let installed = kernel.is_installed();
    if !installed {
        eprintln!("SKIPPED: scripts/install-prerequisites could not fetch the {kernel:?} kernel");
    }
    installed
}

/// What is asked of each device: the cure, zeros, what an independent reader finds, the defect. `$name`, `$device` and
/// `$reader`, the command that reads what was stamped, are set.
const EXERCISE: &str = r"
    stableblk info $device --json | tr -d '\n' | report $name info
    serve $device || exit
    disk write 0 2097152 1 verify 0 2097152 1 rewrite 8388608 4096000 0 verify 0 2097152 1 \
        discard 2097152 1048576 0 write 3145728 3145728 2 zero 3145728 1048576 0 unmap 4194304 1048576 0 \
        verify-zeros 3145728 2097152 3 verify 5242880 1048576 2 | report $name cure
    stop || exit
    $reader && echo true | report $name independent-reader

    serve $device --bounce never || exit
    disk rewrite 8388608 4096000 0 | report $name defect
    stop || exit
    # what the last front-end to leave had made
    grep -o 'integrity_errors=[0-9]*' /tmp/log | tail -n 1 | cut -d= -f2 | report $name counted
";

#[test]
fn kernel_pi_serves_each_format_that_the_kernel_has() {
    if !has_kernel(Kernel::Unstable) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut script = String::new();
    for (nsid, namespace) in (1..).zip(&NAMESPACES) {
        let name = namespace.name;
        write!(
            script,
            "name={name}\ndevice=/dev/$(ground {nsid})\nreader=\"stamp verify $device 2 1\"\n{EXERCISE}"
        )
        .unwrap();
    }
    let reports = run(Kernel::Unstable, &[], &config(scratch.path(), &NAMESPACES), &script);
    for Namespace { name, block_size, ms, pi, pil, wide, .. } in NAMESPACES {
        reports.assert_exercised(name);
        let info = reports.get(name, "info");
        assert_eq!(info["served_by"], "kernel-pi", "{name}: {info}");
        let metadata = &info["integrity"];
        assert_eq!(metadata["found_by"], "FS_IOC_GETLBMD_CAP");
        assert_eq!(
            (&metadata["interval_size"], &metadata["metadata_size"]),
            (&block_size.into(), &ms.into())
        );
        // the kernel takes Type 2 for Type 1
        let pi_type = if pi == 3 { 3 } else { 1 };
        assert_eq!(metadata["pi_type"], pi_type, "{name}");
        let (guard, tuple_size) = if wide { ("crc64-nvme", 16) } else { ("crc16-t10dif", 8) };
        assert_eq!(
            (&metadata["guard"], &metadata["tuple_size"]),
            (&guard.into(), &tuple_size.into()),
            "{name}"
        );
        let tuple_offset = if pil { 0 } else { ms - tuple_size };
        assert_eq!(metadata["tuple_offset"], tuple_offset, "{name}");
    }
}

/// The one format that everything else is shown on.
const ONE: Namespace = Namespace::new("one", 4096, 8, 1);

/// Damages a tag of each kind of what was written to a `device`, the command that names it, and reads it: the first words of
/// what must be logged, and what the device said.
fn damage_is_named(device: &str, said: [&str; 3]) {
    if !has_kernel(Kernel::Unstable) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    // bytes of the tuple: guard 0-1, application tag 2-3, reference tag 4-7
    let script = format!(
        r#"
        block=/dev/$(ground 1); character=$(echo $block | sed s/nvme/ng/)
        serve {device} || exit
        disk write 0 1048576 1 >&2
        damage $character 7 4096 8 data 100 || exit
        damage $character 9 4096 8 metadata 3 || exit
        damage $character 11 4096 8 metadata 7 || exit
        disk verify 24576 4096 1 verify 28672 4096 1 verify 32768 4096 1 verify 36864 4096 1 verify 45056 4096 1 \
            verify 45056 4096 1 | report one reads
        # a whole block that is written is good again
        disk write 28672 4096 2 verify 28672 4096 2 | report one again
        stop || exit
        sed -n 's/.* failed: \(.*\) queue=.*/"\1"/p' /tmp/log | tr '\n' ',' | sed 's/\(.*\),/[\1]/' | report one log
        "#
    );
    let reports = run(Kernel::Unstable, &[], &config(scratch.path(), &[ONE]), &script);
    let reads = reports.get("one", "reads").as_array().unwrap();
    let failed: Vec<_> = reads.iter().map(|read| read["failed"].as_u64()).collect();
    assert_eq!(failed, [0, 1, 0, 1, 1, 1].map(Some));
    reports.assert_good("one", "again");
    let found = [
        "guard tag error at LBA 7 (rcvd ",
        "app tag error at LBA 9 (rcvd 0001, want 0000)",
        "ref tag error at location 11 (rcvd 10, want 11)",
    ];
    // the 1st, the 2nd and the 4th error are logged
    let log = reports.get("one", "log").as_array().unwrap();
    assert_eq!(log.len(), 3, "{log:?}");
    for (line, (found, said)) in log.iter().zip(found.into_iter().zip(said)) {
        let line = line.as_str().unwrap();
        assert!(line.starts_with(found) && line.ends_with(&format!("(the device: {said})")), "{line}");
    }
}

#[test]
fn kernel_pi_names_damage_on_the_medium() {
    damage_is_named("$block", ["protection error"; 3]);
}

#[test]
fn nvme_passthrough_names_damage_on_the_medium() {
    let said = [
        "End-to-end Guard Check Error, 282h",
        "End-to-end Application Tag Check Error, 283h",
        "End-to-end Reference Tag Check Error, 284h",
    ];
    damage_is_named("$character", said);
}

#[test]
fn metadata_without_protection_information_is_refused() {
    if !has_kernel(Kernel::Unstable) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let script = r"
        block=/dev/$(ground 1)
        serve $block 2>/tmp/refused && exit
        grep -c 'metadata of 8 bytes is not protection information' /tmp/refused | report nop block
        serve $(echo $block | sed s/nvme/ng/) 2>/tmp/refused && exit
        grep -c '8 bytes of metadata and without protection information' /tmp/refused | report nop character
    ";
    let reports =
        run(Kernel::Unstable, &[], &config(scratch.path(), &[Namespace::new("nop", 512, 8, 0)]), script);
    assert_eq!((reports.get("nop", "block"), reports.get("nop", "character")), (&1.into(), &1.into()));
}

#[test]
fn a_partition_has_reference_tags_of_its_disk() {
    if !has_kernel(Kernel::Unstable) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let namespaces = [Namespace { name: "part", ..NAMESPACES[0] }];
    let script = format!(
        "
        name=part; disk=/dev/$(ground 1); device=${{disk}}p1
        printf 'o\\nn\\np\\n1\\n2048\\n40959\\nw\\n' | fdisk $disk >&2
        [ -b $device ] || exit
        reader='stamp verify '$device' 2 1'
        {EXERCISE}
        # what lies at 1 MiB of the partition is 1 MiB further on the disk
        dd if=$disk of=/tmp/disk bs=1M skip=1 count=2 iflag=direct && dd if=$device of=/tmp/partition bs=1M count=2 iflag=direct &&
            cmp /tmp/disk /tmp/partition && echo true | report $name same
        "
    );
    let reports = run(Kernel::Unstable, &[], &config(scratch.path(), &namespaces), &script);
    reports.assert_exercised("part");
    assert_eq!(reports.get("part", "same"), true);
}

/// The file of the queue can be written, so an emulated disk can ask too.
#[test]
fn a_queue_that_asks_for_stable_pages_gets_them() {
    let scratch = tempfile::tempdir().unwrap();
    let script = r"
        device=/dev/$(ground 1)
        log() { serve $device --integrity none && stop && grep -c 'bouncing every request.*queue/stable_writes' /tmp/log; }
        log | report plain before
        echo 1 >/sys/block/$(ground 1)/queue/stable_writes
        log | report plain after
    ";
    let plain = Namespace::new("plain", 512, 0, 0);
    let reports = run(Kernel::Stable, &["nvme"], &config(scratch.path(), &[plain]), script);
    assert_eq!((reports.get("plain", "before"), reports.get("plain", "after")), (&0.into(), &1.into()));
}

#[test]
fn a_device_in_use_is_refused() {
    if !has_kernel(Kernel::Unstable) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let script = r"
        block=/dev/$(ground 1)
        mkswap $block >&2 && swapon $block || exit
        serve $block 2>/tmp/refused && exit
        serve $(echo $block | sed s/nvme/ng/) 2>>/tmp/refused && exit
        grep -c 'in use by the kernel' /tmp/refused | report one refused
        swapoff $block
        serve $block && stop && echo true | report one served
    ";
    let reports = run(Kernel::Unstable, &[], &config(scratch.path(), &[ONE]), script);
    assert_eq!(reports.get("one", "refused"), 2, "block device and character device");
    assert_eq!(reports.get("one", "served"), true);
}

/// SCSI disks, of which the emulated controller checks tags on the way (DIX) and on the medium (DIF).
fn scsi(name: &str, parameters: &str, format: &str) {
    if !has_kernel(Kernel::Unstable) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    // its WRITE SAME leaves stale tuples behind, so without that
    let module = format!("scsi_debug dix=1 dev_size_mb=24 write_same_length=0 {parameters}");
    let script = format!("name={name}; device=/dev/sda; reader='stamp verify /dev/sda 2 1'\n{EXERCISE}");
    let reports = run(Kernel::Unstable, &["sd_mod", &module], &config(scratch.path(), &[]), &script);
    reports.assert_exercised(name);
    assert_eq!(reports.get(name, "info")["integrity"]["format"], format);
}

#[test]
fn scsi_type_1_with_a_crc() {
    scsi("crc", "dif=1 guard=0", "T10-DIF-TYPE1-CRC");
}

#[test]
fn scsi_type_1_with_an_ip_checksum() {
    scsi("ip", "dif=1 guard=1", "T10-DIF-TYPE1-IP");
}

#[test]
fn scsi_type_3_with_a_crc_over_4096_bytes() {
    scsi("type3", "dif=3 guard=0 sector_size=4096", "T10-DIF-TYPE3-CRC");
}

/// Before Linux 6.14 io_uring ignores the attribute without a word.
#[test]
fn an_older_kernel_is_refused_with_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let script = r"
        device=/dev/$(ground 1)
        stableblk info $device --json | tr -d '\n' | report one info
        serve $device 2>/tmp/refused && exit
        grep -c 'IORING_FEAT_RW_ATTR, Linux 6.14.*--integrity none' /tmp/refused | report one refused
        # the kernel generates the tags, and must not do so over pages that change
        serve $device --integrity none || exit
        disk rewrite 0 4096000 0 | report one left-to-the-kernel
        stop || exit
        grep -c 'needs stable pages: the kernel generates' /tmp/log | report one reason
    ";
    let reports = run(Kernel::Stable, &["nvme"], &config(scratch.path(), &[ONE]), script);
    let info = reports.get("one", "info");
    assert_eq!(
        (&info["integrity"]["format"], &info["integrity"]["found_by"]),
        (&"T10-DIF-TYPE1-CRC".into(), &"sysfs".into())
    );
    assert_eq!(info["served_by"], Value::Null);
    assert!(info["refused"].as_str().unwrap().contains("IORING_FEAT_RW_ATTR"), "{info}");
    assert_eq!(reports.get("one", "refused"), 1);
    reports.assert_good("one", "left-to-the-kernel");
    assert_eq!(reports.get("one", "reason"), 1);
}

/// What only commands of our own reach, or reach differently.
const PASSTHROUGH: [Namespace; 8] = [
    Namespace::new("512-t1", 512, 8, 1),
    Namespace::new("512-t2", 512, 8, 2),
    Namespace::new("4k-t3", 4096, 8, 3),
    Namespace::new("4k-t1-64b-ms64", 4096, 64, 1).wide(),
    Namespace::new("4k-t1-ms64-first", 4096, 64, 1).first(),
    Namespace::new("512-t1-extended", 512, 8, 1).extended(),
    Namespace::new("4k-t1-64b-extended", 4096, 16, 1).wide().extended(),
    Namespace::new("4k-t1-ms64-extended", 4096, 64, 1).extended(),
];

fn passthrough(kernel: Kernel, modules: &[&str], namespaces: &[Namespace]) {
    if !has_kernel(kernel) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut script = String::new();
    for (nsid, Namespace { name, extended, .. }) in (1..).zip(namespaces) {
        // the kernel has no way to metadata that is interleaved
        let reader = if *extended { "true" } else { "stamp verify $block 2 1" };
        write!(
            script,
            "name={name}\nblock=/dev/$(ground {nsid})\ndevice=$(echo $block | sed s/nvme/ng/)\nreader=\"{reader}\"\n{EXERCISE}"
        )
        .unwrap();
    }
    let reports = run(kernel, modules, &config(scratch.path(), namespaces), &script);
    for Namespace { name, block_size, ms, pi, extended, .. } in namespaces {
        let info = reports.get(name, "info");
        assert_eq!(info["served_by"], "nvme-passthrough", "{name}: {info}");
        let metadata = &info["integrity"];
        assert_eq!(
            (&metadata["interval_size"], &metadata["metadata_size"]),
            (&(*block_size).into(), &(*ms).into())
        );
        assert_eq!(metadata["pi_type"], *pi, "{name}");
        if *extended {
            // the data is copied whatever --bounce says
            reports.assert_good(name, "cure");
            reports.assert_good(name, "defect");
        } else {
            reports.assert_exercised(name);
        }
    }
}

#[test]
fn nvme_passthrough_serves_what_the_kernel_does_not() {
    passthrough(Kernel::Unstable, &[], &PASSTHROUGH);
}

#[test]
fn nvme_passthrough_works_on_an_older_kernel() {
    passthrough(Kernel::Stable, &["nvme"], &PASSTHROUGH[..6]);
}
