//! `.ci/run` sets `CI`, where a run that skips all that it may skip shows nothing.

use std::env;

use super::{LoopDevice, watched};

#[test]
fn in_ci_not_everything_is_skipped() {
    let in_ci = env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false");
    assert!(
        !in_ci || watched::debug_registers().is_ok() || LoopDevice::new(1 << 20).is_some(),
        "every test that may be skipped was: there are no debug registers and no loop devices here"
    );
}
