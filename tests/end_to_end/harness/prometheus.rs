//! An exporter, and a real Prometheus that scrapes it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use regex::Regex;
use serde_json::Value;
use tempfile::TempDir;

use super::{PROGRAM, Process, TIME_LIMIT, wait_until};

/// The alert rules of the package.
pub(crate) const RULES: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/prometheus/stableblk.rules.yml");

/// An exporter of the control sockets in a directory.
#[derive(Debug)]
pub(crate) struct Exporter {
    pub(crate) process: Process,
    pub(crate) directory: TempDir,
    pub(crate) address: String,
}

impl Exporter {
    /// Starts one at an address that is free.
    pub(crate) fn start(args: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["exporter", "--listen", "127.0.0.1:0", "--control-directory"]).arg(directory.path());
        let process = Process::start(command.args(args));
        process.stderr().wait_for("/metrics");
        let log = process.stderr().so_far();
        let address = log.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
        Self { process, directory, address }
    }

    /// Sends `request` and returns the head of the answer, and its body.
    pub(crate) fn ask(&self, request: &[u8]) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(TIME_LIMIT)).unwrap();
        stream.write_all(request).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
        (head.to_owned(), body.to_owned())
    }

    /// The metrics in the format of OpenMetrics.
    pub(crate) fn scrape(&self) -> String {
        let (head, body) = self.ask(b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n");
        assert!(
            head.starts_with("HTTP/1.1 200 OK") && head.contains("application/openmetrics-text"),
            "{head}"
        );
        assert!(body.ends_with("# EOF\n"));
        body
    }
}

/// The value of the only sample whose line begins with `name` and has all of `labels`.
pub(crate) fn value(scrape: &str, name: &str, labels: &[&str]) -> u64 {
    let start = format!("{name}{{");
    let lines = scrape.lines().filter(|line| line.starts_with(&start));
    let found: Vec<_> = lines.filter(|line| labels.iter().all(|label| line.contains(label))).collect();
    let [line] = found[..] else { panic!("{name} {labels:?}: {found:?}\n{scrape}") };
    line.rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{line}"))
}

/// A Prometheus that scrapes an exporter and has the rules of the package.
#[derive(Debug)]
pub(crate) struct Prometheus {
    server: Process,
    address: String,
    _directory: TempDir,
}

impl Prometheus {
    pub(crate) fn start(program: &Path, exporter: &Exporter) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // the rules as they are, but for the time that a state must last
        let rules = Regex::new("for: .*").unwrap();
        let rules = rules.replace_all(&fs::read_to_string(RULES).unwrap(), "for: 1s").into_owned();
        fs::write(directory.path().join("rules.yml"), rules).unwrap();
        let config = format!(
            "global: {{scrape_interval: 2s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
             scrape_configs: [{{job_name: stableblk, static_configs: [{{targets: [\"{}\"]}}]}}]\n",
            exporter.address
        );
        fs::write(directory.path().join("prometheus.yml"), config).unwrap();
        let address = free_address();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let server = Process::start(Command::new(program).args([
            format!("--config.file={}", path("prometheus.yml")),
            format!("--storage.tsdb.path={}", path("data")),
            format!("--web.listen-address={address}"),
        ]));
        Self { server, address, _directory: directory }
    }

    /// Waits until an expression has one value.
    pub(crate) fn wait_for(&self, expression: &str, value: &str) {
        wait_until(
            || {
                let result = query(&self.address, expression);
                result.is_some_and(|result| result[0]["value"][1] == value)
            },
            || {
                let result = query(&self.address, expression);
                format!("{expression}: {result:?}\n{}", self.server.stderr().so_far())
            },
        );
    }
}

/// The answer of the Prometheus at `address` to a query.
fn query(address: &str, expression: &str) -> Option<Value> {
    let encoded = expression.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(TIME_LIMIT)).ok()?;
    let request = format!("GET /api/v1/query?query={encoded} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let answer: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    Some(answer["data"]["result"].clone())
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}
