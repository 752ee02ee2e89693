//! A running domain goes to another libvirt, another QEMU and another back-end.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use guest::Qemu;

use crate::daemon::Libvirt;
use crate::domain::{Domain, NAME};

#[test]
fn a_guest_goes_on_at_the_destination() {
    // That of Debian 12 loses pages of an emulated guest when it migrates, with disks of its own
    // too; its kernel then panics.
    let qemu = Qemu::Recent;
    let Some(mut domain) = Domain::define_on(qemu) else { return };
    let place = domain.path("destination");
    fs::create_dir(&place).expect("directory");
    let destination = Libvirt::start(&place, qemu).expect("the source could start, too");
    let incoming = domain.serve_to(&destination, &["--incoming"]);
    // QEMU's user makes the socket of the migration
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).expect("permissions");
    let socket = format!("unix://{}/migration.sock", place.display());

    domain.virsh(&["start", NAME]);
    domain.wait_for_rounds(2);
    domain.virsh(&["migrate", "--live", NAME, &destination.uri(), "--migrateuri", &socket]);
    assert_eq!(domain.virsh(&["domstate", NAME]), "shut off");
    domain.stop_back_end();
    domain.wait_for_rounds(2);
    assert!(!domain.output().contains("start 2"), "it was booted: {}", domain.output());
    destination.virsh(&["destroy", NAME]);
    incoming.stop().unwrap_or_else(|error| panic!("{error}"));
    domain.serve();
    assert_eq!(domain.count_mismatches(), 0);
}
