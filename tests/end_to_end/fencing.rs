//! What a killed back-end has begun is over before a successor serves: else an old write could land on a newer one, or an old read in
//! memory that the guest uses for something else by now.
//!
//! A frozen file system makes a write last as long as the test wants.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::inflight::InflightRegion;
use crate::harness::{
    Backend, Frontend, GuestMemory, Image, OK, Request, TIME_LIMIT, finish, pattern, serve_command,
};

const SIZE: u64 = 8 << 20;

/// A file system on a loop device, that can be frozen. Thawed and unmounted when dropped.
struct FileSystem(TempDir);

impl FileSystem {
    /// `None` where nothing may be mounted.
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (device, root) = (directory.path().join("device"), directory.path().join("root"));
        File::create_new(&device).unwrap().set_len(64 << 20).unwrap();
        fs::create_dir(&root).unwrap();
        let mounted = run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), &device])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), &device, &root]);
        if !mounted {
            eprintln!("skipped: no file system can be mounted here");
        }
        mounted.then_some(Self(directory))
    }

    fn root(&self) -> PathBuf {
        self.0.path().join("root")
    }

    fn freeze(&self) {
        assert!(run("fsfreeze", &["-f".as_ref(), &self.root()]));
    }

    fn thaw(&self) -> bool {
        run("fsfreeze", &["-u".as_ref(), &self.root()])
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        let _ = self.thaw();
        // lazily: who was killed may still be on its way out
        let _ = run("umount", &["-l".as_ref(), &self.root()]);
    }
}

/// Whether a program of the system's ended well.
fn run(program: &str, args: &[&Path]) -> bool {
    let path = "/usr/sbin:/sbin:/usr/bin:/bin";
    Command::new(program).args(args).env("PATH", path).output().is_ok_and(|output| output.status.success())
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + TIME_LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A thread of `pid` waits for the frozen file system.
fn is_stuck(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    stats.into_iter().any(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('D')))
}

/// Kills the back-end of `image` with a write in flight, which `is_in_flight` sees by the process's id.
fn fences(file_system: &FileSystem, image: &Image, is_in_flight: impl Fn(u32) -> bool) {
    let memory = GuestMemory::new();
    let backend = Backend::serve(image, &[]);
    let mut frontend = Frontend::connect(&backend, &memory);
    let region = InflightRegion::ask(&mut frontend, 1, 64);
    region.give_to(&mut frontend);
    let mut queue = frontend.queue_of_size(0, 64);
    queue.write(8, &pattern(1, 4096));
    file_system.freeze();
    let buffer = memory.allocate(4096);
    memory.write(buffer, &pattern(2, 4096));
    let head = queue.submit(&Request::write(8, &[(buffer, 4096)]));
    queue.kick();
    until("the write", || is_in_flight(backend.pid()));
    kill_process(Pid::from_raw(backend.pid().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    drop(frontend);
    assert_eq!(region.in_flight(0), [head]);

    let directory = tempfile::tempdir().unwrap();
    let refused = finish(&mut serve_command(&directory.path().join("socket"), image, &[]));
    assert_eq!(refused.code, Some(1), "it serves while the old write is in flight: {}", refused.stderr);
    assert!(refused.stderr.contains("a process that is exiting"), "{}", refused.stderr);

    assert!(file_system.thaw());
    backend.kill();
    let backend = Backend::serve(image, &[]);
    let mut frontend = Frontend::connect(&backend, &memory);
    region.give_to(&mut frontend);
    let base = queue.driver().used_index();
    frontend.start(&queue, base);
    let completion = queue.wait();
    assert_eq!((completion.head, completion.status), (head, OK));
    queue.write(8, &pattern(3, 4096));
    assert!(queue.read(8, 4096) == pattern(3, 4096));
    drop(frontend);
    backend.stop();
    image.assert_clean();
}

#[test]
fn of_a_file() {
    let Some(file_system) = FileSystem::mount() else { return };
    let image = Image::create_apart(&file_system.root(), SIZE);
    // allocated, so that nothing but the write itself waits
    fs::write(image.path(), vec![0; usize::try_from(SIZE).unwrap()]).unwrap();
    fences(&file_system, &image, is_stuck);
}

#[test]
fn of_a_block_device() {
    let Some(file_system) = FileSystem::mount() else { return };
    let backing = file_system.root().join("backing");
    fs::write(&backing, vec![0; usize::try_from(SIZE).unwrap()]).unwrap();
    let attached = Command::new("/sbin/losetup").args(["--find", "--show"]).arg(&backing).output().unwrap();
    let device = PathBuf::from(String::from_utf8(attached.stdout).unwrap().trim());
    let image = Image::of(&device);
    let protected = finish(&mut image.command("protect"));
    assert_eq!(protected.code, Some(0), "{}", protected.stderr);
    let name = device.file_name().unwrap().to_str().unwrap();
    let in_flight = format!("/sys/block/{name}/inflight");
    let is_in_flight = |_| {
        let counts = fs::read_to_string(&in_flight).unwrap();
        counts.split_whitespace().any(|count| count != "0")
    };
    fences(&file_system, &image, is_in_flight);
    assert!(run("losetup", &["--detach".as_ref(), &device]));
}
