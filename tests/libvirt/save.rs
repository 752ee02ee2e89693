//! A running domain is saved to a file, and restored from it.

use crate::domain::{Domain, NAME};

/// As over a restart of the host: another back-end serves the restored domain.
#[test]
fn a_guest_continues_where_it_was_saved() {
    let Some(mut domain) = Domain::define() else { return };
    domain.virsh(&["start", NAME]);
    domain.wait_for_rounds(2);
    let state = domain.path("saved");
    let state = state.to_string_lossy();
    domain.virsh(&["save", NAME, &state]);
    assert_eq!(domain.virsh(&["domstate", "--reason", NAME]), "shut off (saved)");
    assert_eq!(domain.count_mismatches(), 0);

    domain.serve();
    domain.virsh(&["restore", &state]);
    domain.wait_for_rounds(2);
    assert!(!domain.output().contains("start 2"), "it was booted: {}", domain.output());
    domain.virsh(&["destroy", NAME]);
    assert_eq!(domain.count_mismatches(), 0);
}
