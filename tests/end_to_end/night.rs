//! The walk of docs/night.md: its commands, one after the other, and what it says that they print.

use std::path::PathBuf;
use std::process::Command;

use guest::prometheus_program;

use crate::harness::{
    Backend, Exporter, Finished, IOERR, Image, PROGRAM, Prometheus, finish, pattern, value,
};
use crate::skip::skip;

const DOCUMENT: &str = include_str!("../../docs/night.md");
const BLOCK: usize = 4096;
const SECTORS: u64 = 8;

/// A command of the document.
struct Step {
    line: &'static str,
    /// The exit status that its comment names, else 0.
    code: i32,
    /// Lines that it prints; `...` stands for anything.
    printed: Vec<&'static str>,
}

fn steps() -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in DOCUMENT.lines().filter_map(|line| line.strip_prefix("    ")) {
        if let (Some(printed), Some(step)) = (line.strip_prefix("| "), steps.last_mut()) {
            step.printed.push(printed);
            continue;
        }
        let code = line.split_once("# exit status ").map_or(0, |(_, code)| code.parse().unwrap());
        steps.push(Step { line, code, printed: Vec::new() });
    }
    steps
}

/// The host of the document.
struct Host {
    image: Image,
    backup: PathBuf,
    /// None while the service is stopped.
    backend: Option<Backend>,
    exporter: Exporter,
}

impl Host {
    /// A disk of 4 MiB whose block 7 was written after its backup.
    fn start() -> Self {
        let image = Image::create(4 << 20);
        let write = |block: u64, data: &[u8]| {
            let backend = Backend::serve(&image, &[]);
            backend.connect().queue(0).write(block * SECTORS, data);
            backend.stop();
        };
        write(0, &pattern(1, 64 * BLOCK));
        let backup = image.directory().join("backup.img");
        let copied = finish(image.command("copy").arg(&backup));
        assert_eq!(copied.code, Some(0), "{}", copied.stderr);
        write(7, &pattern(2, BLOCK));
        let mut host = Self { image, backup, backend: None, exporter: Exporter::start(&[]) };
        host.serve();
        host
    }

    fn serve(&mut self) {
        let backend = Backend::serve(&self.image, &[]);
        // that of the process before has the same name
        let _ = std::fs::remove_file(self.exporter.directory.path().join("vm1.control"));
        backend.link_control(self.exporter.directory.path(), "vm1.control");
        self.backend = Some(backend);
    }

    /// Does what a step says, and returns the number of damaged blocks that the exporter and the
    /// list show then.
    fn run(&mut self, step: &Step) -> Option<u64> {
        match step.line.split_once(" stableblk@") {
            Some(("systemctl stop", _)) => drop(self.backend.take().unwrap().stop()),
            Some(("systemctl start", _)) => self.serve(),
            _ => self.run_program(step),
        }
        let backend = self.backend.as_ref()?;
        let shown = value(&self.exporter.scrape(), "stableblk_damaged_blocks", &[r#"disk="vm1""#]);
        assert_eq!(backend.ask(&["damage"])["blocks"], shown, "{}", step.line);
        let mut list = Command::new(PROGRAM);
        let list = finish(list.args(["list", "--control-directory"]).arg(self.exporter.directory.path()));
        let row = list.stdout.lines().find(|line| line.starts_with("vm1 ")).unwrap();
        // the last cell but one
        assert_eq!(row.split_whitespace().rev().nth(1), Some(shown.to_string().as_str()), "{}", list.stdout);
        Some(shown)
    }

    fn run_program(&self, step: &Step) {
        let mut line = step.line.replace("stableblk ", &format!("{PROGRAM} "));
        let control = self.backend.as_ref().map(Backend::control);
        for (name, path) in [
            ("/run/stableblk/vm1.control", control),
            ("/var/lib/stableblk/vm1.img", Some(self.image.path())),
            ("/backup/vm1.img", Some(self.backup.as_path())),
        ] {
            let Some(path) = path else { continue };
            line = line.replace(name, &path.display().to_string());
        }
        let Finished { code, stdout, stderr } = finish(Command::new("sh").args(["-c", &line]));
        assert_eq!(code, Some(step.code), "{line}:\n{stdout}{stderr}");
        let mut lines = stdout.lines();
        for printed in &step.printed {
            assert!(lines.any(|line| fits(line, printed)), "{printed}\nis not, or not there, in\n{stdout}");
        }
    }
}

/// Whether a line is the pattern, in which `...` stands for anything.
fn fits(line: &str, pattern: &str) -> bool {
    let parts: Vec<_> = pattern.split("...").map(regex::escape).collect();
    regex::Regex::new(&format!("^{}$", parts.join(".*"))).unwrap().is_match(line)
}

#[test]
fn damage_is_found_restored_and_accepted_as_the_document_says() {
    let Some(prometheus) = prometheus_program("prometheus") else {
        return skip("there is no prometheus");
    };
    let mut host = Host::start();
    let prometheus = Prometheus::start(&prometheus, &host.exporter);
    let firing = |name: &str| format!("ALERTS{{alertname=\"{name}\", disk=\"vm1\", alertstate=\"firing\"}}");
    prometheus.wait_for("stableblk_damaged_blocks{disk=\"vm1\"}", "0");
    for block in [3, 7, 900] {
        host.image.flip_bit(block * BLOCK as u64 + 5);
    }
    let backend = host.backend.as_ref().unwrap();
    assert_eq!(backend.connect().queue(0).try_read(3 * SECTORS, BLOCK).0.status, IOERR);
    prometheus.wait_for(&firing("StableblkDamage"), "1");

    let (mut shown, steps) = (Vec::new(), steps());
    for step in &steps {
        shown.push(host.run(step));
        if step.line.contains("scrub") && step.code != 0 {
            prometheus.wait_for(&firing("StableblkScrubFound"), "1");
            prometheus.wait_for("stableblk_damaged_blocks{disk=\"vm1\"}", "3");
        }
    }
    let expected = [Some(1), Some(3), Some(3), None, None, Some(1), Some(1), Some(0), Some(0)];
    assert_eq!(shown, expected);
    prometheus.wait_for("stableblk_damaged_blocks{disk=\"vm1\"}", "0");
    for name in ["StableblkDamage", "StableblkScrubFound"] {
        prometheus.wait_for(&format!("count({}) or vector(0)", firing(name)), "0");
    }

    // the guest reads what it wrote, but for the bit that was accepted
    let backend = host.backend.take().unwrap();
    let read = backend.connect().queue(0).read(0, 64 * BLOCK);
    let mut expected = pattern(1, 64 * BLOCK);
    let changed = host.image.read(7 * BLOCK as u64, BLOCK);
    let bits = changed.iter().zip(pattern(2, BLOCK)).map(|(is, was)| (is ^ was).count_ones());
    assert_eq!(bits.sum::<u32>(), 1);
    expected[7 * BLOCK..8 * BLOCK].copy_from_slice(&changed);
    assert!(read == expected);
    backend.stop();
    host.image.assert_clean();
}
