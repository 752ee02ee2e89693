//! A domain is defined, started, used and stopped.

use crate::domain::{Domain, NAME};

#[test]
fn a_guest_uses_its_disk_and_finds_it_again() {
    let Some(mut domain) = Domain::define() else { return };
    assert_eq!(domain.virsh(&["domstate", NAME]), "shut off");
    for start in ["start 1\n", "start 2\n"] {
        domain.virsh(&["start", NAME]);
        domain.wait_for_rounds(2);
        assert!(domain.output().contains(start), "the count on the disk is wrong: {}", domain.output());
        domain.virsh(&["destroy", NAME]);
    }
    domain.virsh(&["undefine", NAME]);
    assert_eq!(domain.count_mismatches(), 0);
}
