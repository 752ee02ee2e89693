//! `kernel-pi`: each format that the kernel has a profile for.

use crate::bench::Bench;
use crate::exercise::{self, DAMAGED};
use crate::namespace::{Namespace, config};

/// No 64b guard over 512 bytes, which NVMe does not have.
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

#[test]
fn kernel_pi_serves_each_format_that_the_kernel_has() {
    let scratch = tempfile::tempdir().unwrap();
    let exercise = |(nsid, namespace): (usize, &Namespace)| {
        let (block, character) = (format!("$(block {nsid})"), format!("$(character {nsid})"));
        let reader = format!("stamp verify {block} 2 1");
        exercise::script(namespace.name, &block, &reader, &namespace.damage(DAMAGED, &character))
    };
    let script: String = (1..).zip(&NAMESPACES).map(exercise).collect();
    let Some(reports) = Bench::UNSTABLE.run(&config(scratch.path(), &NAMESPACES), &script) else { return };
    for namespace in NAMESPACES {
        let Namespace { name, block_size, ms, pi, pil, wide, .. } = namespace;
        reports.assert_exercised(name, "protection error");
        reports.assert_named(name, block_size);
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
        let guard = if wide { "crc64-nvme" } else { "crc16-t10dif" };
        let tuple_size = namespace.tuple_size();
        assert_eq!(
            (&metadata["guard"], &metadata["tuple_size"]),
            (&guard.into(), &tuple_size.into()),
            "{name}"
        );
        let tuple_offset = if pil { 0 } else { ms - tuple_size };
        assert_eq!(metadata["tuple_offset"], tuple_offset, "{name}");
    }
}
