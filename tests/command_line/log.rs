//! The log filter: a typing error in it must not silence all messages, errors included.

use crate::directory::{Directory, Run};

fn run(directory: &Directory, arguments: &str, variable: Option<&str>) -> Run {
    let mut command = directory.command(arguments);
    if let Some(filter) = variable {
        command.env("RUST_LOG", filter);
    }
    Run::of(command)
}

#[test]
fn a_filter_that_silences_everything_is_refused() {
    let directory = Directory::protected("");
    let serve = "--socket-path socket --blk-file disk";
    for filter in ["inffo", "info,stableblk", "sesion=debug", "stableblk=loud", "warn;debug"] {
        let words = ["say error, warn, info", filter];
        let commands = ["check disk", "info disk", "create new --size 1M", "protect disk --force"];
        // when serving it is a wrong configuration
        for (command, code) in commands.map(|command| (command, 2)).into_iter().chain([(serve, 78)]) {
            run(&directory, &format!("{command} --log {filter}"), None).fails(code, &words);
            run(&directory, command, Some(filter)).fails(code, &words);
        }
        run(&directory, &format!("check disk --log {filter}"), Some("info")).fails(2, &["--log"]);
        run(&directory, "check disk", Some(filter)).fails(2, &["RUST_LOG"]);
    }
    assert_eq!(directory.file_names(), ["disk", "disk.pi"]);
}

#[test]
fn filters_that_let_something_through_are_taken() {
    let directory = Directory::protected("");
    for filter in ["debug", "OFF", "warn,other=debug", "stableblk::session=debug", "[queue]=trace", ""] {
        assert_eq!(run(&directory, "check disk", Some(filter)).code, 0, "{filter:?}");
    }
    assert_eq!(run(&directory, "check disk --log warn", Some("inffo")).code, 0);
}
