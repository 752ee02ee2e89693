//! Devices that the kernel uses are refused by either name.

use crate::bench::Bench;
use crate::namespace::{Namespace, config};

#[test]
fn a_device_in_use_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let script = r"
        mkswap $(block 1) >&2 && swapon $(block 1) || exit
        serve $(block 1) 2>/tmp/refused && exit
        serve $(character 1) 2>>/tmp/refused && exit
        grep -c 'in use by the kernel.*unmount or release it first' /tmp/refused | report disk refused
        swapoff $(block 1)
        serve $(block 1) || exit
        # who serves it holds it, too
        ! stableblk --socket-path /tmp/other --blk-file $(block 1) 2>/tmp/held && grep -c 'in use by stableblk (pid ' /tmp/held | report disk held
        stop && echo true | report disk served
    ";
    let disk = Namespace::new("disk", 4096, 8, 1);
    let Some(reports) = Bench::UNSTABLE.run(&config(scratch.path(), &[disk]), script) else { return };
    assert_eq!(reports.get("disk", "refused"), 2, "block device and character device");
    assert_eq!(reports.get("disk", "held"), 1);
    assert_eq!(reports.get("disk", "served"), true);
}
