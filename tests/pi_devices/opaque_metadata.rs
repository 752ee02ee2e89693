//! Namespaces with metadata but without protection information: the metadata takes tuples of our
//! own.

use guest::Qemu;

use crate::bench::Bench;
use crate::exercise::{self, DAMAGED};
use crate::namespace::{Namespace, config};

/// QEMU before 8.1 moves only a part of metadata of more than 512 bytes, where there is no
/// protection information.
const BENCH: Bench = Bench { qemu: Qemu::Recent, ..Bench::UNSTABLE };

/// Each is served by its character device, and those that the kernel can reach by their block
/// device too.
const NAMESPACES: [Namespace; 6] = [
    Namespace::new("512-ms8", 512, 8, 0),
    Namespace::new("512-ms16", 512, 16, 0),
    Namespace::new("4k-ms16", 4096, 16, 0),
    Namespace::new("4k-ms64", 4096, 64, 0),
    Namespace::new("512-ms8-extended", 512, 8, 0).extended(),
    Namespace::new("4k-ms64-extended", 4096, 64, 0).extended(),
];

/// Ends with reading what was rewritten without a bounce.
fn exercise(name: &str, device: &str, reader: &str, damage: &str) -> String {
    let read_back = format!(
        "
        for try in 1 2 3 4 5; do
            serve {device} || exit
            disk read 8388608 16384000 0 >/tmp/read-back
            stop || exit
            is_clear $(failed </tmp/read-back) && break
            serve {device} --bounce never || exit
            disk rewrite 8388608 16384000 0 >&2
            stop || exit
        done
        report {name} read-back </tmp/read-back
        "
    );
    exercise::script(name, device, reader, damage) + &read_back
}

#[test]
fn opaque_metadata_holds_tuples_of_our_own() {
    let scratch = tempfile::tempdir().unwrap();
    let mut served = Vec::new();
    let mut script = String::new();
    for (nsid, namespace) in (1..).zip(NAMESPACES) {
        let (block, character) = (format!("$(block {nsid})"), format!("$(character {nsid})"));
        let damage = namespace.damage(DAMAGED, &character);
        // the kernel reads the data, if it can; only stableblk can interpret the tuples
        let reader = if namespace.extended { "true".to_owned() } else { format!("stamp verify {block} 2 1") };
        let name = format!("{}-character", namespace.name);
        script += &exercise(&name, &character, &reader, &damage);
        served.push((name, namespace, "nvme-passthrough"));
        if !namespace.extended {
            let name = format!("{}-block", namespace.name);
            script += &exercise(&name, &block, &reader, &damage);
            served.push((name, namespace, "kernel-pi"));
        }
    }
    let Some(reports) = BENCH.run(&config(scratch.path(), &NAMESPACES), &script) else { return };
    for (name, Namespace { block_size, ms, extended, .. }, served_by) in served {
        let info = reports.get(&name, "info");
        assert_eq!(info["served_by"], served_by, "{name}: {info}");
        let metadata = &info["integrity"];
        let (guard, tuple_size) = if ms < 16 { ("crc16-t10dif", 8) } else { ("crc64-nvme", 16) };
        assert_eq!(
            (&metadata["own_tuples"], &metadata["guard"], &metadata["tuple_size"], &metadata["tuple_offset"]),
            (&true.into(), &guard.into(), &tuple_size.into(), &0.into()),
            "{name}"
        );
        reports.assert_cured(&name);
        reports.assert_named(&name, block_size);
        // writes are not checked: without a bounce the damage shows when the block is read
        assert_eq!(reports.failed(&name, "defect"), [0], "{name}");
        let [read] = reports.failed(&name, "read-back")[..] else { panic!("{name}") };
        if extended {
            assert_eq!(read, 0, "{name}: the data is copied whatever --bounce says");
        } else {
            assert!(read > 100, "{name} without bounce: {read} of 1000 reads failed");
        }
    }
}

/// Of a namespace that others have written to, by its block device and by its character device; and
/// what is too small.
#[test]
fn data_without_tuples_is_refused_until_it_is_taken_over() {
    let scratch = tempfile::tempdir().unwrap();
    let steps = |name: &str, device: &str, block: &str| {
        format!(
            r"
            stamp write {block} 2 1 || exit
            serve {device} 2>/tmp/refused && exit
            grep -c 'unwritten block not zero at LBA 0.*`stableblk protect /dev/n' /tmp/refused | report {name} refused
            stableblk protect {device} >/tmp/protected || exit
            sed -n 's/.* metadata, \([0-9]*\) blocks were given tuples/\1/p' /tmp/protected | report {name} given
            serve {device} || exit
            disk verify 0 2097152 1 verify-zeros 2097152 2097152 0 write 1048576 4096 2 | report {name} taken-over
            # what the kernel writes has no tuple: found among blocks that have one
            stop || exit
            dd if=/bin/busybox of={block} bs=4096 count=1 seek=17 oflag=direct conv=notrunc || exit
            serve {device} || exit
            disk verify 65536 4096 1 verify 69632 4096 1 verify 1048576 4096 2 | report {name} foreign-write
            stop || exit
            failures | report {name} found
            # damage is not taken over unasked, as the kernel's block is
            damage {character} 300 4096 16 data 5 || exit
            dd if={block} of=/dev/null bs=4096 skip=300 count=1 iflag=direct && echo true | report {name} kernel-reads-damage
            stableblk protect {device} 2>/tmp/refused && exit
            grep -c '^stableblk: 1 blocks .* first guard tag error at LBA 300 .*(1 others .*--force' /tmp/refused | report {name} damage-refused
            stableblk protect --force {device} | grep -c ' 1 blocks' | report {name} forced
            serve {device} || exit
            disk read 0 33554432 0 | report {name} good
            stop || exit
            ",
            character = device.replace("block", "character"),
        )
    };
    let namespaces = [
        Namespace::new("one", 4096, 16, 0),
        Namespace::new("two", 4096, 16, 0),
        Namespace::new("small", 512, 4, 0),
        Namespace::new("pi", 512, 8, 1),
    ];
    let ways = [("one", "$(block 1)", "$(block 1)"), ("two", "$(character 2)", "$(block 2)")];
    let script = ways.map(|(name, device, block)| steps(name, device, block)).concat()
        + r"
        serve $(block 3) 2>/tmp/refused && exit
        serve $(character 3) 2>>/tmp/refused && exit
        grep -c '4 bytes of metadata a block are not protection information, and too few for a tuple' /tmp/refused | report small refused
        stableblk protect $(block 4) 2>/tmp/refused && exit
        stableblk protect $(character 4) 2>>/tmp/refused && exit
        grep -c 'there is nothing to protect, serve it as it is' /tmp/refused | report pi refused
        ";
    let Some(reports) = BENCH.run(&config(scratch.path(), &namespaces), &script) else { return };
    for (name, ..) in ways {
        assert_eq!(
            (reports.get(name, "refused"), reports.get(name, "given")),
            (&1.into(), &512.into()),
            "{name}"
        );
        reports.assert_good(name, "taken-over");
        assert_eq!(reports.failed(name, "foreign-write"), [0, 1, 0], "{name}");
        assert_eq!(reports.get(name, "found")[0], "unwritten block not zero at LBA 17", "{name}");
        assert_eq!(
            (reports.get(name, "damage-refused"), reports.get(name, "forced")),
            (&1.into(), &1.into()),
            "{name}"
        );
        reports.assert_good(name, "good");
        assert_eq!(reports.get(name, "kernel-reads-damage"), true);
    }
    assert_eq!((reports.get("small", "refused"), reports.get("pi", "refused")), (&2.into(), &2.into()));
}
