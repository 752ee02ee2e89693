//! A guest makes a file system, puts it under stress, trims it and has it checked.

use crate::bench::Bench;

/// Written, and deleted before the trim; more than all that stays. So without the trim no image
/// could be smaller.
const BALLAST_MIB: u64 = 192;
/// The ballast's tuples: 16 bytes for 4096.
const BALLAST_PI_KIB: u64 = BALLAST_MIB * 1024 / 256;

/// `kind` is mount's name and the kernel module's; `fsck` changes nothing and ends with 0 when all
/// is well.
///
/// `file-stress` verifies each read. Here it also reads everything with the page cache dropped, and
/// again after trim, check and mount; and it must notice a change.
fn survives_stress(block_size: u32, kind: &'static str, mkfs: &str, fsck: &str) {
    let mut bench = Bench::new(&["--block-size", &block_size.to_string()]).with_module(kind).with_tools(&[
        "/sbin/mkfs.ext4",
        "/sbin/e2fsck",
        "/sbin/mkfs.xfs",
        "/sbin/xfs_repair",
    ]);
    let empty_sidecar = bench.allocated_kib("disk.raw.pi");
    let script = format!(
        "
        set -e
        stress() {{ file-stress $1 /mnt {block_size} 1 750; }}
        [ $(cat /sys/block/vda/queue/logical_block_size) = {block_size} ]
        tool {mkfs} /dev/vda >&2
        mount -t {kind} /dev/vda /mnt
        dd if=/dev/zero of=/mnt/ballast bs=1M count={BALLAST_MIB} oflag=direct

        cat /sys/block/vda/stat
        stress run
        cat /sys/block/vda/stat
        rm /mnt/ballast
        sync
        echo 3 >/proc/sys/vm/drop_caches
        stress verify

        fstrim /mnt
        umount /mnt
        tool {fsck} /dev/vda >&2
        mount -t {kind} /dev/vda /mnt
        stress verify

        printf planted | dd of=/mnt/0/0 conv=notrunc
        ! stress verify 2>/tmp/reason || exit 1
        grep '/mnt/0/0: .* byte 0 is 0x70 instead of' /tmp/reason >&2
        umount /mnt
        "
    );
    let output = bench.run("second-disk-read-only.cfg", None, &script);

    let (read, written) = mib_read_and_written(&output);
    assert!(
        read >= 4 && written >= 16,
        "{read} MiB read, {written} written: the stress hardly reached the disk"
    );
    bench.stop();
    let image = bench.allocated_kib("disk.raw");
    let sidecar = bench.allocated_kib("disk.raw.pi").saturating_sub(empty_sidecar);
    let trimmed = image < BALLAST_MIB * 1024 && sidecar < BALLAST_PI_KIB;
    assert!(trimmed, "{image} KiB of image and {sidecar} of sidecar are still allocated");
    assert_eq!(bench.count_mismatches(), 0);
}

/// Between two lines of the kernel's counters; fields 3 and 7 are sectors ("Block layer statistics"
/// in its documentation).
fn mib_read_and_written(output: &str) -> (u64, u64) {
    let line = |line: &str| line.split_whitespace().map(|field| field.parse().expect("number")).collect();
    let lines: Vec<Vec<u64>> = output.lines().map(line).collect();
    let mib = |field: usize| (lines[1][field - 1] - lines[0][field - 1]) / 2048;
    (mib(3), mib(7))
}

/// With blocks of the file system's own smaller than an interval, so that its files share
/// intervals.
#[test]
fn ext4_keeps_its_files_on_blocks_of_512_bytes() {
    survives_stress(512, "ext4", "mkfs.ext4 -q -b 1024", "e2fsck -fn");
}

#[test]
fn ext4_keeps_its_files_on_blocks_of_4096_bytes() {
    survives_stress(4096, "ext4", "mkfs.ext4 -q", "e2fsck -fn");
}

/// With sectors and blocks smaller than an interval, so that log, metadata and files share
/// intervals.
#[test]
fn xfs_keeps_its_files_on_blocks_of_512_bytes() {
    survives_stress(512, "xfs", "mkfs.xfs -q -s size=512 -b size=1024", "xfs_repair -n");
}

#[test]
fn xfs_keeps_its_files_on_blocks_of_4096_bytes() {
    survives_stress(4096, "xfs", "mkfs.xfs -q", "xfs_repair -n");
}
