//! Damage to each tag, as it lies on the medium: found, named, and an error of that request alone.

use serde_json::json;

use crate::bench::{Bench, Reports};
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
            serve {device} --control /tmp/control || exit
            disk write 0 1048576 1 >&2
            damage $(character 1) 7 4096 8 data 100 || exit
            damage $(character 1) 9 4096 8 metadata 3 || exit
            damage $(character 1) 11 4096 8 metadata 7 || exit
            disk verify 24576 4096 1 verify 28672 4096 1 verify 32768 4096 1 verify 36864 4096 1 verify 45056 4096 1 \
                verify 45056 4096 1 | report {name} reads
            listed damage | report {name} listed
            # a whole block that is written is good again
            disk write 28672 4096 2 verify 28672 4096 2 | report {name} again
            listed damage | report {name} left
            listed scrub start --rate 1G --wait | report {name} scrub
            listed damage | report {name} scrubbed
            listed accept --lba 8-11 | report {name} accepted
            disk verify 36864 4096 1 verify 45056 4096 1 | report {name} readable
            listed damage | report {name} mended
            stop || exit
            counted integrity_errors | report {name} counted
            failures | report {name} log
            "
        )
    };
    let functions = "listed() { stableblk ctl /tmp/control \"$@\" --json | tr -d '\\n'; }\n".to_owned();
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
    let script = functions + &ways.map(|(name, device, _)| steps(name, device)).concat();
    let Some(reports) = Bench::UNSTABLE.run(&config(scratch.path(), &[FORMAT]), &script) else { return };
    for (name, _, said) in ways {
        assert_eq!(reports.failed(name, "reads"), [0, 1, 0, 1, 1, 1], "{name}");
        assert_eq!(reports.get(name, "counted"), 4, "{name}");
        reports.assert_good(name, "again");
        assert_listed(&reports, name);
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

/// Checks that the damage list has the blocks that the guest and the scrub have found, until they
/// are written or accepted.
fn assert_listed(reports: &Reports, name: &str) {
    let listed = |step| {
        let ranges = reports.get(name, step)["ranges"].as_array().unwrap().iter();
        ranges.map(|range| (range["first_lba"].clone(), range["check"].clone())).collect::<Vec<_>>()
    };
    let expected = [(7, "guard_tag"), (9, "application_tag"), (11, "reference_tag")];
    let expected = expected.map(|(lba, check)| (json!(lba), json!(check)));
    assert_eq!(listed("listed"), expected, "{name}");
    assert_eq!(listed("left"), expected[1..], "{name}");
    assert_eq!(reports.get(name, "scrub")["last_found"], 2, "{name}");
    assert_eq!(listed("scrubbed"), expected[1..], "{name}");
    assert_eq!(reports.get(name, "accepted")["accepted"], json!([9, 11]), "{name}");
    reports.assert_good(name, "readable");
    assert_eq!(reports.get(name, "mended")["blocks"], 0, "{name}");
    let found_by = &reports.get(name, "scrubbed")["ranges"][0]["found_by"];
    assert_eq!(*found_by, json!(["guest", "scrub"]), "{name}");
}
