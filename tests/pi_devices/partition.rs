//! A partition of a disk with protection information: the kernel remaps its reference tags.

use crate::bench::Bench;
use crate::exercise::{self, DAMAGED};
use crate::namespace::{Namespace, config};

const DISK: Namespace = Namespace::new("part", 512, 8, 1);
/// Where the partition begins, in bytes.
const START: u64 = 1 << 20;

#[test]
fn a_partition_has_reference_tags_of_its_disk() {
    let scratch = tempfile::tempdir().unwrap();
    let damage = DISK.damage(START + DAMAGED, "$(character 1)");
    let exercise = exercise::script("part", "$partition", "stamp verify $partition 2 1", &damage);
    let script = format!(
        r"
        disk=$(block 1); partition=${{disk}}p1
        printf 'o\nn\np\n1\n2048\n65535\nw\n' | fdisk $disk >&2
        [ -b $partition ] || exit
        {exercise}
        # what lies at 2 MiB of the partition is 1 MiB further on the disk
        dd if=$disk of=/tmp/disk bs=1M skip=3 count=1 iflag=direct &&
            dd if=$partition of=/tmp/partition bs=1M skip=2 count=1 iflag=direct &&
            cmp /tmp/disk /tmp/partition && echo true | report part same
        "
    );
    let Some(reports) = Bench::UNSTABLE.run(&config(scratch.path(), &[DISK]), &script) else { return };
    reports.assert_exercised("part", "protection error");
    reports.assert_named("part", 512);
    assert_eq!(reports.get("part", "same"), true);
}
