//! `completions`: the scripts that make shells complete the command line.

use std::fs;
use std::process::Command;

use guest::limited;

use crate::directory::Directory;

fn script(shell: &str) -> String {
    let directory = Directory::new();
    directory.stableblk(&format!("completions {shell}")).succeeds().stdout.clone()
}

#[test]
fn each_shell_gets_a_script_with_the_subcommands_and_their_options() {
    for shell in ["bash", "zsh", "fish"] {
        let script = script(shell);
        for word in ["check", "restore", "scrub", "recover", "blk-file"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let refused = Directory::new().stableblk("completions csh");
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("bash, zsh, fish"), "{}", refused.stderr);
}

/// The words that bash offers at the end of `line`.
fn offered_by_bash(line: &str) -> String {
    let directory = Directory::new();
    fs::write(directory.path("script"), script("bash")).unwrap();
    let complete = r#"
        set -e
        source ./script
        complete -p stableblk >/dev/null
        COMP_WORDS=($LINE)
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
        _stableblk stableblk "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        echo "${COMPREPLY[*]}""#;
    let mut bash = Command::new("bash");
    bash.args(["--norc", "-c", complete]).env("LINE", line).current_dir(directory.0.path());
    let output = limited::output(&mut bash).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn bash_completes_subcommands_options_and_values() {
    for (line, offered) in [
        ("stableblk ch", "check"),
        ("stableblk check --rec", "--recover"),
        ("stableblk ctl /run/a.control scrub sta", "start status"),
        ("stableblk create disk --guard crc", "crc64 crc32c"),
    ] {
        assert_eq!(offered_by_bash(line), offered, "{line}");
    }
}
