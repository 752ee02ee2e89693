//! Pictures of the documents that scripts draw.

use std::fs;
use std::process::Command;

use crate::tree::root;

#[test]
fn the_picture_of_the_readme_is_what_its_script_draws() {
    let drawn = Command::new("python3").arg(root().join("scripts/draw-what-goes-wrong")).output();
    let drawn = drawn.expect("python3: run scripts/install-prerequisites");
    assert!(drawn.status.success(), "{}", String::from_utf8_lossy(&drawn.stderr));
    let kept = fs::read(root().join("docs/what-goes-wrong.svg")).unwrap();
    assert!(drawn.stdout == kept, "run scripts/draw-what-goes-wrong >docs/what-goes-wrong.svg");
}
