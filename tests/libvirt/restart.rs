//! The back-end goes and comes back while the guest runs.

use crate::domain::{Domain, NAME};

#[test]
fn a_guest_goes_on_when_its_back_end_is_restarted_or_killed() {
    let Some(mut domain) = Domain::define() else { return };
    domain.virsh(&["start", NAME]);
    domain.wait_for_rounds(1);
    for leave in [Domain::stop_back_end, Domain::kill_back_end] {
        leave(&mut domain);
        domain.serve();
        domain.wait_for_rounds(2);
    }
    domain.virsh(&["destroy", NAME]);
    assert_eq!(domain.count_mismatches(), 0);
}
