//! The requests to every kind of storage with protection information.

use crate::bench::Reports;

/// Where [`script`] has a block damaged, in bytes.
pub(crate) const DAMAGED: u64 = 1 << 20;

/// The steps, for a guest's script: the cure, zeros, what an independent reader finds, damage, the
/// defect. `reader` is a command that reads the 2 MiB that were stamped with seed 1, `damage` one
/// that changes data at [`DAMAGED`] and leaves its tags.
///
/// Requests are of 512 bytes to 1 MiB, on two queues, from registered folios, with a flush after
/// each action that writes; those that are rewritten have 16 KiB.
pub(crate) fn script(name: &str, device: &str, reader: &str, damage: &str) -> String {
    let before = DAMAGED - 4096;
    format!(
        r"
        stableblk info {device} --json | tr -d '\n' | report {name} info
        serve {device} || exit
        disk write 0 2097152 1 verify 0 2097152 1 rewrite 8388608 16384000 0 verify 0 2097152 1 \
            discard 2097152 1048576 0 write 3145728 3145728 2 zero 3145728 1048576 0 unmap 4194304 1048576 0 \
            verify-zeros 3145728 2097152 3 verify 5242880 1048576 2 read 8388608 16384000 0 | report {name} cure
        stop || exit
        grep -c 'RLIMIT_MEMLOCK' /tmp/log | report {name} unregistered
        {reader} && echo true | report {name} independent-reader

        {damage} || exit
        serve {device} || exit
        disk verify {before} 4096 1 verify {DAMAGED} 4096 1 | report {name} damaged
        stop || exit
        failures | report {name} found

        serve {device} --bounce never || exit
        broken=0
        for try in 1 2 3 4 5; do
            disk rewrite 8388608 16384000 0 >/tmp/defect
            broken=$((broken + $(failed </tmp/defect)))
            is_clear $(failed </tmp/defect) && break
        done
        stop || exit
        report {name} defect </tmp/defect
        echo $broken | report {name} broken
        counted unstable_writes | report {name} unstable-writes
        failures | report {name} refused
        "
    )
}

impl Reports {
    /// Checks what the steps of [`script`] reported of storage that checks what it is given, and
    /// `says` so when it refuses that.
    pub(crate) fn assert_exercised(&self, name: &str, says: &str) {
        self.assert_cured(name);
        let defect = &self.get(name, "defect")[0];
        assert_eq!(defect["requests"], 1000);
        assert!(defect["failed"].as_u64() > Some(100), "{name} without bounce: {defect}");
        assert_eq!(self.get(name, "unstable-writes"), self.get(name, "broken"), "{name}");
        let refused = self.get(name, "refused");
        let expected =
            format!("the guest changed the data while it was written, since --bounce is never: {says}");
        assert_eq!(refused[0], expected.as_str(), "{name}: {refused}");
    }

    /// The same, but for what happens without a bounce.
    pub(crate) fn assert_cured(&self, name: &str) {
        self.assert_good(name, "cure");
        assert_eq!(self.get(name, "cure")[2]["requests"], 1000, "{name}: rewritten writes");
        assert_eq!(self.get(name, "unregistered"), 0, "{name}: folios are registered buffers");
        assert_eq!(self.get(name, "independent-reader"), true);
        assert_eq!(self.failed(name, "damaged"), [0, 1], "{name}");
    }

    /// Checks that the damage was named with the guard tag that was found and the one that was
    /// expected.
    pub(crate) fn assert_named(&self, name: &str, interval_size: u32) {
        let found = self.get(name, "found").as_array().unwrap();
        let [found] = &found[..] else { panic!("{name}: {found:?}") };
        let expected = format!("guard tag error at LBA {} (rcvd ", DAMAGED / u64::from(interval_size));
        let found = found.as_str().unwrap();
        assert!(found.starts_with(&expected) && found.contains(", want "), "{name}: {found}");
    }
}
