//! The disk grows while the guest uses it.

use std::process::Command;

use crate::domain::{Domain, NAME};

#[test]
fn a_guest_uses_its_disk_to_the_new_end() {
    let Some(mut domain) = Domain::define() else { return };
    domain.virsh(&["start", NAME]);
    domain.wait_for_round_on(256);
    domain.ctl(&["resize", "--size", "384M"]);
    domain.wait_for_round_on(384);
    // the image alone, as by a person
    let grown = Command::new("truncate").args(["--size", "512M"]).arg(domain.image()).status();
    assert!(grown.expect("start truncate").success());
    domain.wait_for_round_on(512);
    domain.virsh(&["destroy", NAME]);
    assert_eq!(domain.count_mismatches(), 0);
}
