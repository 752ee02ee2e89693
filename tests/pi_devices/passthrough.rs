//! `nvme-passthrough`: namespaces that only commands of our own can use, or use differently.

use serde_json::Value;

use crate::bench::Bench;
use crate::exercise::{self, DAMAGED};
use crate::namespace::{Namespace, config};

const NAMESPACES: [Namespace; 8] = [
    Namespace::new("512-t1", 512, 8, 1),
    Namespace::new("512-t2", 512, 8, 2),
    Namespace::new("4k-t3", 4096, 8, 3),
    Namespace::new("4k-t1-64b-ms64", 4096, 64, 1).wide(),
    Namespace::new("4k-t1-ms64-first", 4096, 64, 1).first(),
    Namespace::new("512-t1-extended", 512, 8, 1).extended(),
    Namespace::new("4k-t1-64b-extended", 4096, 16, 1).wide().extended(),
    Namespace::new("4k-t1-ms64-extended", 4096, 64, 1).extended(),
];

fn passthrough(bench: &Bench, namespaces: &[Namespace]) {
    let scratch = tempfile::tempdir().unwrap();
    let exercise = |(nsid, namespace): (usize, &Namespace)| {
        let (block, character) = (format!("$(block {nsid})"), format!("$(character {nsid})"));
        let reader = if is_read_by_kernel(*namespace) {
            format!("stamp verify {block} 2 1")
        } else {
            "true".to_owned()
        };
        exercise::script(namespace.name, &character, &reader, &namespace.damage(DAMAGED, &character))
    };
    let block_info = |(nsid, Namespace { name, .. }): (usize, &Namespace)| {
        format!("stableblk info $(block {nsid}) --json | tr -d '\\n' | report {name} block-info\n")
    };
    let script: String =
        (1..).zip(namespaces).map(exercise).chain((1..).zip(namespaces).map(block_info)).collect();
    let Some(reports) = bench.run(&config(scratch.path(), namespaces), &script) else { return };
    for Namespace { name, block_size, ms, pi, extended, .. } in namespaces {
        let info = reports.get(name, "info");
        assert_eq!(info["served_by"], "nvme-passthrough", "{name}: {info}");
        let metadata = &info["integrity"];
        assert_eq!(
            (&metadata["interval_size"], &metadata["metadata_size"]),
            (&(*block_size).into(), &(*ms).into())
        );
        assert_eq!(metadata["pi_type"], *pi, "{name}");
        reports.assert_named(name, *block_size);
        if *extended {
            // not so by the block device
            let block = reports.get(name, "block-info");
            assert_eq!(
                (&block["integrity"], &block["served_by"]),
                (&Value::Null, &Value::Null),
                "{name}: {block}"
            );
            // the data is copied whatever --bounce says
            reports.assert_cured(name);
            reports.assert_good(name, "defect");
        } else {
            reports.assert_exercised(name, "End-to-end Guard Check Error, 282h");
        }
    }
}

/// Interleaved metadata is the kernel's to read only where it is the bare tuple, which the
/// controller then checks and strips.
fn is_read_by_kernel(namespace: Namespace) -> bool {
    !namespace.extended || namespace.ms == namespace.tuple_size()
}

#[test]
fn nvme_passthrough_serves_what_the_kernel_does_not() {
    passthrough(&Bench::UNSTABLE, &NAMESPACES);
}

#[test]
fn nvme_passthrough_works_on_an_older_kernel() {
    passthrough(&Bench::STABLE, &NAMESPACES[..6]);
}
