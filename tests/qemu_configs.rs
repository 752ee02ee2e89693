//! The files of `qemu-configs/` that no guest boots from.

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

fn config(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../qemu-configs")).join(name)
}

fn parse(json: &[u8]) -> Value {
    serde_json::from_slice(json).expect("JSON")
}

#[test]
fn the_description_for_management_software_says_what_the_program_says() {
    let capabilities = Command::new(env!("CARGO_BIN_EXE_stableblk"))
        .arg("--print-capabilities")
        .output()
        .expect("start stableblk");
    let capabilities = parse(&capabilities.stdout);
    let description = parse(&fs::read(config("50-stableblk.json")).expect("read"));
    for field in ["type", "features"] {
        assert_eq!(description[field], capabilities[field], "{field}");
    }
}

#[test]
fn the_libvirt_domain_follows_libvirts_schema() {
    let validate = Command::new("virt-xml-validate").arg(config("libvirt-domain.xml")).output();
    let validate = validate.expect("start virt-xml-validate: run scripts/install-prerequisites");
    assert!(validate.status.success(), "{}", String::from_utf8_lossy(&validate.stderr));
}
