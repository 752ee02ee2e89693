//! The table in the README: what it says is printed is printed, and names its cure.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use integrity::sidecar::SUPERBLOCK_SIZE;
use tempfile::TempDir;
use vhost::VhostBackend;

use crate::harness::{
    Backend, Frontend, Image, PROGRAM, Process, Setup, copy_program, finish, pattern, refuse_system_call,
    serve_command,
};
use crate::memory_changes::Dimm;
use crate::skip::skip;

const SIZE: u64 = 1 << 20;
/// `__NR_io_uring_setup`, the same on all architectures.
const IO_URING_SETUP: u32 = 425;

/// The message of one row, as in the table, and what leads to it. None where that cannot be done
/// here.
type Case = (&'static str, fn() -> Option<String>);

const CASES: &[Case] = &[
    ("no size: give bytes", || {
        let image = Image::without_sidecar(SIZE);
        Some(stderr(image.command("create").args(["--size", "10X"])))
    }),
    ("there is no image", || {
        let image = Image::without_sidecar(SIZE);
        fs::remove_file(image.path()).unwrap();
        Some(serve(&image, &[]))
    }),
    ("has no sidecar ... make it with", || Some(serve(&Image::without_sidecar(SIZE), &[]))),
    ("it was protected before, with the UUID", || {
        let image = Image::create(SIZE);
        fs::rename(image.sidecar_path(), image.directory().join("renamed.pi")).unwrap();
        Some(serve(&image, &[]))
    }),
    ("is the sidecar of another image", || {
        let (image, other) = (Image::create(SIZE), Image::create(SIZE));
        Some(serve(&image, &["--integrity", text(&other.sidecar_path())]))
    }),
    ("is no usable sidecar", || {
        let image = Image::create(SIZE);
        for copy in [0, SUPERBLOCK_SIZE] {
            image.flip_sidecar_bit(|_| copy + 40);
        }
        Some(serve(&image, &[]))
    }),
    ("is not a sidecar, and is left as it is", || {
        let image = Image::without_sidecar(SIZE);
        fs::write(image.sidecar_path(), "my notes").unwrap();
        Some(stderr(image.command("protect").arg("--force")))
    }),
    ("is truncated: it has", || {
        let image = Image::create(SIZE);
        File::options().write(true).open(image.path()).unwrap().set_len(SIZE / 2).unwrap();
        Some(serve(&image, &[]))
    }),
    ("are of two moments", || {
        let image = Image::create(SIZE);
        let before = fs::read(image.sidecar_path()).unwrap();
        Backend::serve(&image, &[]).stop();
        fs::write(image.sidecar_path(), before).unwrap();
        Some(serve(&image, &[]))
    }),
    ("the image was written after its sidecar was closed", || {
        let image = Image::create(SIZE);
        let backend = Backend::serve(&image, &[]);
        backend.connect().queue(0).write(0, &pattern(1, 4096));
        backend.stop();
        fs::write(image.path(), pattern(2, usize::try_from(SIZE).unwrap())).unwrap();
        Some(Backend::serve(&image, &[]).stop())
    }),
    ("the ring is in no memory that the front-end shares", || {
        let mut vm = Setup::disk(SIZE).connect();
        let _queue = vm.frontend.queue(0);
        vm.frontend.protocol.set_mem_table(&[Dimm::new(0).region()]).unwrap();
        vm.backend.log().wait_for("the ring is in no memory");
        Some(vm.backend.log().so_far())
    }),
    ("was cut off", || {
        let image = Image::create(SIZE);
        Some(while_served(&image, "was cut off", |image| {
            File::options().write(true).open(image.sidecar_path()).unwrap().set_len(9000).unwrap();
        }))
    }),
    ("the image that is served, was deleted", || {
        let image = Image::create(SIZE);
        Some(while_served(&image, "was deleted", |image| fs::remove_file(image.path()).unwrap()))
    }),
    ("the sidecar that is served, was deleted", || {
        let image = Image::create(SIZE);
        Some(while_served(&image, "was deleted", |image| fs::remove_file(image.sidecar_path()).unwrap()))
    }),
    ("another file has taken the place of", || {
        let image = Image::create(SIZE);
        Some(while_served(&image, "taken the place", |image| {
            let copy = image.directory().join("copy");
            fs::copy(image.path(), &copy).unwrap();
            fs::rename(copy, image.path()).unwrap();
        }))
    }),
    ("is a qcow2 image, not a raw image", || {
        let image = Image::without_sidecar(SIZE);
        File::options().write(true).open(image.path()).unwrap().write_all_at(b"QFI\xfb", 0).unwrap();
        Some(stderr(&mut image.command("protect")))
    }),
    ("writes under", || Some(serve(&Image::create(SIZE), &["--integrity", "none"]))),
    ("was served without its sidecar", || {
        let image = Image::create(SIZE);
        Backend::serve(&image, &["--integrity", "none", "--force"]).stop();
        Some(serve(&image, &[]))
    }),
    ("is an option of serving, not a path", || {
        let image = Image::create(SIZE);
        Some(stderr(image.command("info").args(["--integrity", "none"])))
    }),
    ("disk.img is in use by", || {
        let image = Image::create(SIZE);
        let _backend = Backend::serve(&image, &[]);
        Some(serve(&image, &[]))
    }),
    ("no permission to write", || {
        as_somebody(|image| fs::set_permissions(image.path(), readable()).unwrap())
    }),
    ("which is on a read-only file system", || {
        let image = Image::create(SIZE);
        let directory = tempfile::tempdir().unwrap();
        read_only(image.directory(), &serve_command(&directory.path().join("socket"), &image, &[]))
    }),
    ("no permission to make socket", || as_somebody(|_| {})),
    ("would be on a read-only file system", || {
        let image = Image::create(SIZE);
        let directory = tempfile::tempdir().unwrap();
        read_only(directory.path(), &serve_command(&directory.path().join("socket"), &image, &[]))
    }),
    ("is in use by another process", || {
        let (image, other) = (Image::create(SIZE), Image::create(SIZE));
        let backend = Backend::serve(&image, &[]);
        Some(stderr(&mut serve_command(backend.socket(), &other, &[])))
    }),
    ("exists and is not a socket", || {
        let image = Image::create(SIZE);
        let file = image.directory().join("precious");
        fs::write(&file, "precious").unwrap();
        Some(stderr(&mut serve_command(&file, &image, &[])))
    }),
    ("more than 107", || {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(110)));
        Some(stderr(&mut serve_command(&long, &Image::create(SIZE), &[])))
    }),
    ("is not open: pass a listening or connected", || {
        let image = Image::create(SIZE);
        let mut command = Command::new("sh");
        command.args(["-c", r#"exec "$0" --fd 3 --blk-file "$1" 3<&-"#, PROGRAM]);
        Some(stderr(command.arg(image.path())))
    }),
    ("is no level", || Some(serve(&Image::create(SIZE), &["--log", "inffo"]))),
    ("io_uring cannot be used: Function not implemented", || Some(without_io_uring(libc::ENOSYS))),
    ("io_uring cannot be used: Operation not permitted", || Some(without_io_uring(libc::EPERM))),
    ("io_uring cannot be used: Cannot allocate memory", || {
        let place = Place::new()?;
        Some(stderr(&mut place.serve(16)))
    }),
    ("cannot start the worker ... Cannot allocate memory", || {
        let place = Place::new()?;
        // enough for one ring, or for the one with which the start finds out whether there can be
        // any
        let process = Process::start(&mut place.serve(120));
        process.stderr().wait_for("serving");
        let stream = UnixStream::connect(place.socket()).unwrap();
        let mut frontend = Frontend::over(stream, process.stderr());
        let queues: Vec<_> = (0..4).map(|index| frontend.new_queue(index)).collect();
        let started = queues.iter().try_for_each(|queue| frontend.try_start(queue, 0));
        started.expect_err("four rings fit into 120 KiB");
        process.stderr().wait_for("cannot start the worker");
        Some(process.stderr().so_far())
    }),
    ("but the limit is", || {
        let (image, directory) = (Image::create(SIZE), tempfile::tempdir().unwrap());
        let serve = serve_command(&directory.path().join("socket"), &image, &["--num-queues", "200"]);
        Some(stderr(&mut shell("ulimit -n 256", &serve)))
    }),
    ("/proc is not mounted", || {
        let (image, directory) = (Image::create(SIZE), tempfile::tempdir().unwrap());
        let serve = serve_command(&directory.path().join("socket"), &image, &[]);
        in_mounts_of_its_own("umount --lazy /proc", &serve)
    }),
    ("cannot reach ... is the disk running", || {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(PROGRAM);
        Some(stderr(command.arg("ctl").arg(directory.path().join("nothing")).arg("status")))
    }),
];

#[test]
fn each_message_of_the_readme_is_printed_and_names_its_cure() {
    let rows = rows();
    for (message, _) in CASES {
        assert!(rows.iter().any(|row| row.message() == *message), "{message:?} is not in the README's table");
    }
    let (mut named, mut skipped, mut wrong) = (0, 0, Vec::new());
    for row in &rows {
        let case = CASES.iter().find(|(message, _)| *message == row.message());
        let (_, run) = case.unwrap_or_else(|| panic!("{:?} is not tested", row.message()));
        match run().map(|printed| row.is_kept_by(&printed)) {
            None => skipped += 1,
            Some(Ok(())) => named += 1,
            Some(Err(reason)) => wrong.push(reason),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    if skipped > 0 {
        skip(&format!("{skipped} of {} messages, for which this user has no permission", rows.len()));
    }
    assert!(named >= 20, "{named} messages name their cure");
}

/// A message, its cause and its cure. Code in the first and the last is to be in one line that is
/// printed.
struct Row {
    cells: Vec<String>,
}

impl Row {
    fn message(&self) -> &str {
        self.cells[0].trim_matches('`')
    }

    /// Whether a line has the message and all code of the cure.
    fn is_kept_by(&self, printed: &str) -> Result<(), String> {
        let line = printed.lines().find(|line| contains(line, self.message()));
        let line = line.ok_or_else(|| format!("{:?} was not printed, but\n{printed}", self.message()))?;
        let mut code = self.cells[2].split('`').skip(1).step_by(2);
        match code.find(|code| !contains(line, code)) {
            Some(missing) => Err(format!("{missing:?} is not in: {line}")),
            None => Ok(()),
        }
    }
}

/// `...` stands for anything.
fn contains(line: &str, pattern: &str) -> bool {
    let mut rest = line;
    pattern.split("...").map(str::trim).all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

fn rows() -> Vec<Row> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Troubleshooting\n").expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<_> = rows
        .map(|line| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .map(|cells| Row { cells })
        .collect();
    assert!(rows.iter().all(|row| row.cells.len() == 3), "a row has other than three cells");
    rows
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The error output of a command that fails.
fn stderr(command: &mut Command) -> String {
    let finished = finish(command);
    assert_ne!(finished.code, Some(0), "{}", finished.stderr);
    finished.stderr
}

fn serve(image: &Image, args: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    stderr(&mut serve_command(&directory.path().join("socket"), image, args))
}

/// The log after `change`, once it contains `words`.
fn while_served(image: &Image, words: &str, change: fn(&Image)) -> String {
    let backend = Backend::serve(image, &[]);
    change(image);
    backend.log().wait_for(words);
    backend.log().so_far()
}

/// `command`, after `script` in the same shell.
fn shell(script: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{script} && exec \"$0\" \"$@\"")]).arg(command.get_program());
    shell.args(command.get_args());
    shell
}

/// `command` after `script`, whose mounts no other process sees.
fn in_mounts_of_its_own(script: &str, command: &Command) -> Option<String> {
    let probe = Command::new("unshare").args(["--mount", "sh", "-c", script]).status();
    if !probe.is_ok_and(|status| status.success()) {
        return None;
    }
    let mut unshare = Command::new("unshare");
    let inner = shell(script, command);
    unshare.args(["--mount"]).arg(inner.get_program()).args(inner.get_args());
    Some(stderr(&mut unshare))
}

fn read_only(directory: &Path, command: &Command) -> Option<String> {
    let directory = text(directory);
    let script = format!("mount --bind {directory} {directory} && mount -o remount,bind,ro {directory}");
    in_mounts_of_its_own(&script, command)
}

fn without_io_uring(errno: i32) -> String {
    let (image, directory) = (Image::create(SIZE), tempfile::tempdir().unwrap());
    let mut command = serve_command(&directory.path().join("socket"), &image, &[]);
    refuse_system_call(&mut command, IO_URING_SETUP, errno);
    stderr(&mut command)
}

fn readable() -> Permissions {
    Permissions::from_mode(0o644)
}

/// The error output of serving as a user other than root, after `change`, with a socket in a
/// directory of root's.
fn as_somebody(change: fn(&Image)) -> Option<String> {
    let place = Place::new()?;
    change(&place.image);
    let closed = place.directory.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(&place.program);
    command.args(serve_command(&closed.join("socket"), &place.image, &[]).get_args());
    Some(stderr(command.uid(place.user).gid(place.user)))
}

/// How many places there have been.
static PLACES: AtomicU32 = AtomicU32::new(0);

/// A place where a user other than root can serve an image.
struct Place {
    /// A user that nothing else uses: locked memory is counted for each user, and is given back
    /// some time after a process has ended.
    user: u32,
    directory: TempDir,
    program: PathBuf,
    image: Image,
}

impl Place {
    /// None without root's permission to become another user.
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let user = 20_000 + (std::process::id() * 4 + PLACES.fetch_add(1, Relaxed)) % 40_000;
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("stableblk");
        copy_program(&program);
        let image = Image::create_in(directory.path(), SIZE, &[]);
        for path in [directory.path(), image.directory()] {
            fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
        }
        for path in [image.path(), &image.sidecar_path()] {
            fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
        }
        Some(Self { user, directory, program, image })
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    /// Serves with at most `locked_kib` KiB locked in memory.
    fn serve(&self, locked_kib: u64) -> Command {
        let serve = serve_command(&self.socket(), &self.image, &[]);
        let mut command = Command::new("setpriv");
        let user = self.user.to_string();
        command.args(["--reuid", &user, "--regid", &user, "--clear-groups"]);
        command.args(["sh", "-c", &format!("ulimit -l {locked_kib} && exec \"$0\" \"$@\"")]);
        command.arg(&self.program).args(serve.get_args());
        command
    }
}
