//! Swapping on a disk with protection information, by the record of a kernel that swaps.

use crate::bench::Bench;
use crate::namespace::{Namespace, config};

const SWAP_MIB: u64 = 512;

/// The guest's kernel swaps on a disk of QEMU's, and what it asked of that is recorded at its block
/// layer. A driver then asks the same of stableblk on namespaces with protection information, by
/// either way, and rewrites the pages meanwhile as swapping processes do. (For the kernel to swap
/// on stableblk itself takes a guest inside the guest, and so emulation inside emulation: 15
/// minutes did not do.)
#[test]
fn a_swapping_kernel_gets_no_error() {
    let scratch = tempfile::tempdir().unwrap();
    let size = SWAP_MIB << 20;
    let namespaces = [
        Namespace { size, ..Namespace::new("kernel-pi", 4096, 8, 1) },
        Namespace { size, ..Namespace::new("nvme-passthrough", 512, 8, 1) },
    ];
    let disk = scratch.path().join("swap.img");
    std::fs::File::create(&disk).and_then(|file| file.set_len(size)).unwrap();
    let config = config(scratch.path(), &namespaces).replace("size = \"1G\"", "size = \"192M\"")
        + &format!(
            "[drive \"swap\"]\n  file = \"{}\"\n  if = \"none\"\n  format = \"raw\"\n\
            [device \"swap\"]\n  driver = \"virtio-blk-pci\"\n  drive = \"swap\"\n",
            disk.display()
        );
    let script = r#"
        mkswap /dev/vda >&2 && swapon /dev/vda || exit
        mount -t tracefs tracefs /sys/kernel/tracing && cd /sys/kernel/tracing || exit
        echo 8192 >buffer_size_kb
        echo 1 >events/block/block_rq_issue/enable
        swap-stress 160 1 | report swap kernel
        echo 0 >events/block/block_rq_issue/enable
        # kind and, in sectors, start and length, of `block_rq_issue: 254,0 WS 4096 () 2048 + 8 none,0,0 [kswapd0]`
        sed -n 's/.* block_rq_issue: [0-9,]* \([RW]\)[A-Z]* .* \([0-9]*\) + \([0-9]*\) .*/\1 \2 \3/p' trace >/tmp/trace
        cat per_cpu/cpu*/stats | grep -c 'overrun: [1-9]' | report swap lost
        swapoff /dev/vda || exit
        replay() {
            serve $2 $3 || exit
            [ -z "$3" ] || sed -i '500,$d' /tmp/trace
            swap-replay /tmp/sock /tmp/trace | report $1 replay$3
            stop || exit
            counted integrity_errors | report $1 integrity-errors$3
            counted unstable_writes | report $1 unstable-writes$3
        }
        replay kernel-pi $(block 1)
        replay nvme-passthrough $(character 2)
        replay kernel-pi $(block 1) --bounce=never
    "#;
    let Some(reports) = Bench::UNSTABLE.run(&config, script) else { return };
    let kernel = reports.get("swap", "kernel");
    assert_eq!(kernel["pages_wrong"], 0, "{kernel}");
    assert!(kernel["pages_swapped_in"].as_u64() > Some(5_000), "the guest hardly swapped: {kernel}");
    assert_eq!(reports.get("swap", "lost"), 0, "the record has all that was recorded");
    for name in ["kernel-pi", "nvme-passthrough"] {
        let replay = reports.get(name, "replay");
        assert_eq!((&replay["failed"], &replay["pages_wrong"]), (&0.into(), &0.into()), "{name}: {replay}");
        assert!(
            replay["writes"].as_u64() > Some(100) && replay["reads"].as_u64() > Some(500),
            "{name}: {replay}"
        );
        assert!(replay["pages_verified"].as_u64() > Some(5_000), "{name}: {replay}");
        assert_eq!(reports.get(name, "integrity-errors"), 0, "{name}");
    }
    // shows that pages did change under way
    let defect = reports.get("kernel-pi", "replay--bounce=never");
    assert!(defect["failed"].as_u64() > Some(50), "{defect}");
    assert_ne!(reports.get("kernel-pi", "unstable-writes--bounce=never"), 0);
}
