//! The files of `make install`, with their places.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use guest::limited;
use serde_json::Value;

mod skip;
use skip::skip;

const PROGRAM: &str = env!("CARGO_BIN_EXE_stableblk");
const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs a target of the Makefile on `root`.
fn make(target: &str, root: &Path) {
    let mut make = Command::new("make");
    make.args(["-C", REPOSITORY, target]).arg(format!("STABLEBLK={PROGRAM}"));
    let output = limited::output(make.arg(format!("DESTDIR={}", root.display()))).expect("start make");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// All files and directories below `directory`.
fn tree(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        found.insert(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found
}

#[test]
fn uninstall_removes_what_install_has_installed_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let others = root.path().join("usr/share/man/man1");
    fs::create_dir_all(&others).unwrap();
    fs::write(others.join("stableblk-of-others.1"), "").unwrap();
    fs::create_dir_all(root.path().join("usr/lib/systemd")).unwrap();
    let before = tree(root.path());
    make("install", root.path());
    let installed = tree(root.path());
    assert!(installed.len() > before.len() + 60, "{installed:?}");
    // again, as for an upgrade
    make("install", root.path());
    assert_eq!(tree(root.path()), installed);
    let late = root.path().join("usr/share/fish/vendor_completions.d/another.fish");
    fs::write(&late, "").unwrap();
    make("uninstall", root.path());
    let mut left = tree(root.path());
    assert!(left.remove(&late));
    for directory in late.ancestors().skip(1).take(2) {
        assert!(left.remove(directory), "{}", directory.display());
    }
    assert_eq!(left, before);
}

#[test]
fn help_lists_the_targets_and_plain_make_installs_nothing() {
    let make = |arguments: &[&str]| {
        let output = limited::output(Command::new("make").args(["-C", REPOSITORY]).args(arguments)).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let help = make(&["help"]);
    let makefile = read(&Path::new(REPOSITORY).join("Makefile"));
    let phony = makefile.lines().find_map(|line| line.strip_prefix(".PHONY: ")).unwrap();
    for target in phony.split(' ').filter(|target| !["bench-programs", "FORCE"].contains(target)) {
        assert!(help.lines().any(|line| line.split_whitespace().next() == Some(target)), "{target}: {help}");
    }
    let plan = make(&["--dry-run"]);
    assert!(plan.contains("cargo build --release --locked -p stableblk"), "{plan}");
    assert!(!plan.contains("install"), "{plan}");
}

#[test]
fn everything_is_where_the_rest_of_the_system_looks_for_it() {
    let root = tempfile::tempdir().unwrap();
    make("install", root.path());
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
    for file in [
        "bash-completion/completions/stableblk",
        "zsh/vendor-completions/_stableblk",
        "fish/vendor_completions.d/stableblk.fish",
        "doc/stableblk/README.md",
        "doc/stableblk/docs/control.md",
        "doc/stableblk/qemu-configs/libvirt-domain.xml",
    ] {
        assert!(fs::metadata(installed("/usr/share").join(file)).unwrap().len() > 0, "{file}");
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

#[test]
fn every_manual_page_has_its_sections_and_is_sound_roff() {
    let directory = tempfile::tempdir().unwrap();
    assert!(Command::new(PROGRAM).arg("man").arg(directory.path()).status().unwrap().success());
    let mut pages: Vec<_> =
        fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    assert!(pages.len() > 30, "{pages:?}");
    let has_groff = Command::new("groff").arg("--version").output().is_ok();
    if !has_groff {
        skip("there is no groff to read the pages with: only their sections are checked");
    }
    for page in &pages {
        let text = read(page);
        for section in ["EXIT STATUS", "EXAMPLES", "FILES", "SEE ALSO"] {
            let (_, content) = text
                .split_once(&format!(".SH \"{section}\"\n"))
                .or_else(|| text.split_once(&format!(".SH {section}\n")))
                .unwrap_or_else(|| panic!("{}: no {section}", page.display()));
            assert!(!content.is_empty() && !content.starts_with(".SH"), "{}: {section}", page.display());
        }
        if has_groff {
            let mut groff = Command::new("groff");
            let output =
                limited::output(groff.args(["-ww", "-man", "-Tutf8", "-Kutf8", "-z"]).arg(page)).unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{}: {output:?}", page.display());
        }
    }
    let check = read(&directory.path().join("stableblk-check.1"));
    assert!(check.contains("some were adopted after a crash"), "{check}");
    let scrub = read(&directory.path().join("stableblk-ctl-scrub-stop.1"));
    assert!(scrub.contains("scrub stop") && !scrub.contains("scrub status\n"), "{scrub}");
}
