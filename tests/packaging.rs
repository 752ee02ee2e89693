//! The files of `make install`, with their places.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use guest::limited;
use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_stableblk");
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn everything_is_where_the_rest_of_the_system_looks_for_it() {
    let root = tempfile::tempdir().unwrap();
    let mut make = Command::new("make");
    make.args(["-C", REPOSITORY, "install"]).arg(format!("STABLEBLK={PROGRAM}"));
    let output = limited::output(make.arg(format!("DESTDIR={}", root.path().display()))).expect("start make");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // an absolute path as the installed system will have it
    let installed = |path: &str| root.path().join(path.trim_start_matches('/'));

    let description = read(&installed("/usr/share/qemu/vhost-user/50-stableblk.json"));
    let description: Value = serde_json::from_str(&description).unwrap();
    let unit = read(&installed("/usr/lib/systemd/system/stableblk@.service"));
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    for program in [description["binary"].as_str().unwrap(), command.split(' ').next().unwrap()] {
        let mode = fs::metadata(installed(program)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{program}");
    }
    for unit in ["stableblk@.socket", "stableblk-scrub@.timer", "stableblk-exporter.service"] {
        assert!(installed("/usr/lib/systemd/system").join(unit).exists(), "{unit}");
    }
    for file in ["stableblk.rules.yml", "stableblk.scrape.yml", "stableblk.json"] {
        assert!(installed("/usr/share/stableblk").join(file).exists(), "{file}");
    }
    assert_scrub(&read(&installed("/usr/lib/systemd/system/stableblk-scrub@.service")));
}

/// The unit's command is one that the program knows; the disk is not there.
fn assert_scrub(unit: &str) {
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/stableblk ")).unwrap();
    let command = command.replace("/run/", "/nonexistent/").replace("$SCRUB_OPTIONS", "--rate 1M");
    let status = Command::new(PROGRAM).args(command.split(' ')).output().unwrap().status;
    assert_eq!(status.code(), Some(3), "{command}");
}

#[test]
fn every_option_and_subcommand_is_in_the_manual() {
    let directory = tempfile::tempdir().unwrap();
    let help = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).args(arguments).arg("--help").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(Command::new(PROGRAM).arg("man").arg(directory.path()).status().unwrap().success());
    let overview = help(&[]);
    let commands = overview.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands =
        commands.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    let commands: Vec<_> = commands.filter(|command| *command != "help").collect();
    assert!(commands.contains(&"create"), "{overview}");
    for command in [None].into_iter().chain(commands.into_iter().map(Some)) {
        let page = command.map_or("stableblk.1".to_owned(), |command| format!("stableblk-{command}.1"));
        // a hyphen is escaped in roff
        let page = read(&directory.path().join(page)).replace("\\-", "-");
        for option in help(command.as_slice()).lines().filter_map(|line| line.trim().strip_prefix("--")) {
            let option = option.split([' ', '=', '[']).next().unwrap();
            assert!(page.contains(&format!("--{option}")), "{command:?} --{option}");
        }
    }
}
