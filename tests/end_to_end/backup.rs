//! The recipes of docs/backup.md, word for word but for the paths.

use std::path::Path;
use std::process::Command;

use crate::harness::{Backend, Image, PROGRAM, finish, pattern};

const SIZE: usize = 16 << 20;

/// The commands of the document, without indentation.
fn recipes() -> Vec<&'static str> {
    let document = include_str!("../../docs/backup.md");
    document.lines().filter_map(|line| line.strip_prefix("    ")).collect()
}

/// The command that begins with these words, with other paths.
fn recipe(begin: &str, paths: &[(&str, &Path)]) -> Command {
    let line = recipes().into_iter().find(|line| line.starts_with(begin)).expect("a recipe");
    let line = line.replace("stableblk ", &format!("{PROGRAM} "));
    let line = paths.iter().fold(line, |line, (name, path)| line.replace(name, &path.display().to_string()));
    let mut command = Command::new("sh");
    command.args(["-c", &line]);
    command
}

fn succeeds(command: &mut Command) {
    let run = finish(command);
    assert_eq!(run.code, Some(0), "{command:?}: {}{}", run.stdout, run.stderr);
}

/// A disk with data that was written and not flushed, beside its sidecar, and a directory for
/// backups.
fn disk() -> (tempfile::TempDir, Image) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let image = directory.path().join("disk.img");
    succeeds(Command::new(PROGRAM).args(["create", "--size", "16M"]).arg(&image));
    std::fs::create_dir(directory.path().join("backup")).unwrap();
    (directory, Image::beside(&image))
}

fn is_backup(directory: &Path, data: &[u8]) {
    let backup = directory.join("backup");
    succeeds(&mut recipe("stableblk check /backup/", &[("/backup", &backup)]));
    assert!(std::fs::read(backup.join("disk.img")).unwrap()[..data.len()] == *data);
}

#[test]
fn programs_that_keep_attributes_and_times_copy_a_disk_that_is_not_served() {
    for program in ["cp -a", "rsync", "tar"] {
        let (directory, image) = disk();
        let backend = Backend::serve(&image, &[]);
        backend.connect().queue(0).write(0, &pattern(1, 1 << 20));
        backend.stop();
        let backup = directory.path().join("backup");
        if program == "rsync" && Command::new("rsync").arg("--version").output().is_err() {
            crate::skip::skip("rsync is not installed");
            continue;
        }
        succeeds(recipe(program, &[("/backup", &backup)]).current_dir(directory.path()));
        if program == "tar" {
            let archive = directory.path().join("backup.tar");
            succeeds(
                Command::new("tar")
                    .args(["--xattrs", "--xattrs-include=user.*", "-xf"])
                    .arg(&archive)
                    .current_dir(&backup),
            );
        }
        is_backup(directory.path(), &pattern(1, 1 << 20));
        // and back
        std::fs::remove_file(image.path()).unwrap();
        std::fs::remove_file(image.sidecar_path()).unwrap();
        let restore = recipes().into_iter().rfind(|line| line.starts_with("cp -a")).unwrap();
        let restore = restore.replace("/backup", &backup.display().to_string());
        succeeds(Command::new("sh").args(["-c", &restore]).current_dir(directory.path()));
        image.assert_clean();
    }
}

#[test]
fn a_served_disk_is_copied_by_any_program_while_it_is_frozen() {
    let (directory, image) = disk();
    let backend = Backend::serve(&image, &[]);
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(0);
    queue.write(0, &pattern(1, 1 << 20));
    let control = ("/run/vm1-control", backend.control());
    succeeds(&mut recipe("stableblk ctl /run/vm1-control freeze", &[control]));
    let backup = directory.path().join("backup");
    succeeds(recipe("cp -a", &[("/backup", &backup)]).current_dir(directory.path()));
    succeeds(&mut recipe("stableblk ctl /run/vm1-control thaw", &[control]));
    queue.write(0, &pattern(2, 1 << 20));
    is_backup(directory.path(), &pattern(1, 1 << 20));
    drop(frontend);
    backend.stop();
}

#[test]
fn a_disk_that_is_not_served_is_copied_by_stableblk() {
    let (directory, image) = disk();
    let backend = Backend::serve(&image, &[]);
    backend.connect().queue(0).write(0, &pattern(1, SIZE));
    backend.stop();
    succeeds(recipe("stableblk copy disk.img", &[]).current_dir(directory.path()));
    let copy = directory.path().join("backup.img");
    succeeds(Command::new(PROGRAM).arg("check").arg(&copy));
    assert!(std::fs::read(&copy).unwrap() == pattern(1, SIZE));
}
