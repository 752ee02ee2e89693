//! Damage to each tag, as it lies on the medium: found, named, and an error of that request alone.

use crate::bench::Bench;
use crate::namespace::{Namespace, config};

const FORMAT: Namespace = Namespace::new("disk", 4096, 8, 1);

/// Damages a tag of each kind of what was written to `device`, for each of the two ways to it, and
/// reads it.
#[test]
fn damage_on_the_medium_is_named_with_tag_expected_and_actual_value() {
    let scratch = tempfile::tempdir().unwrap();
    // bytes of the tuple: guard 0-1, application tag 2-3, reference tag 4-7
    let steps = |name: &str, device: &str| {
        format!(
            "
            serve {device} || exit
            disk write 0 1048576 1 >&2
            damage $(character 1) 7 4096 8 data 100 || exit
            damage $(character 1) 9 4096 8 metadata 3 || exit
            damage $(character 1) 11 4096 8 metadata 7 || exit
            disk verify 24576 4096 1 verify 28672 4096 1 verify 32768 4096 1 verify 36864 4096 1 verify 45056 4096 1 \
                verify 45056 4096 1 | report {name} reads
            # a whole block that is written is good again
            disk write 28672 4096 2 verify 28672 4096 2 | report {name} again
            stop || exit
            counted integrity_errors | report {name} counted
            failures | report {name} log
            "
        )
    };
    let ways = [
        ("kernel-pi", "$(block 1)", ["protection error"; 3]),
        (
            "nvme-passthrough",
            "$(character 1)",
            [
                "End-to-end Guard Check Error, 282h",
                "End-to-end Application Tag Check Error, 283h",
                "End-to-end Reference Tag Check Error, 284h",
            ],
        ),
    ];
    let script = ways.map(|(name, device, _)| steps(name, device)).concat();
    let Some(reports) = Bench::UNSTABLE.run(&config(scratch.path(), &[FORMAT]), &script) else { return };
    for (name, _, said) in ways {
        assert_eq!(reports.failed(name, "reads"), [0, 1, 0, 1, 1, 1], "{name}");
        assert_eq!(reports.get(name, "counted"), 4, "{name}");
        reports.assert_good(name, "again");
        let found = [
            "guard tag error at LBA 7 (rcvd ",
            "app tag error at LBA 9 (rcvd 0001, want 0000)",
            "ref tag error at location 11 (rcvd 10, want 11)",
        ];
        // the 1st, the 2nd and the 4th error are logged
        let log = reports.get(name, "log").as_array().unwrap();
        assert_eq!(log.len(), 3, "{name}: {log:?}");
        for (line, (found, said)) in log.iter().zip(found.into_iter().zip(said)) {
            let line = line.as_str().unwrap();
            let ending = format!("(the device: {said})");
            assert!(line.starts_with(found) && line.ends_with(&ending), "{name}: {line}");
        }
    }
}
