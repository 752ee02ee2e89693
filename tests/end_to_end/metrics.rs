//! Metrics: what a scrape has, what Prometheus makes of it, and that no control socket can spoil
//! it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;

use guest::prometheus_program;
use regex::Regex;
use serde_json::Value;

use crate::harness::{
    Backend, Exporter, Finished, Image, Prometheus, RULES, finish, pattern, value, wait_until,
};
use crate::skip::skip;

const DOCUMENT: &str = include_str!("../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../packaging/grafana/stableblk.json");

/// A back-end that has served some requests.
fn busy(image: &Image) -> Backend {
    let backend = Backend::serve(image, &["--num-queues", "2"]);
    let mut frontend = backend.connect();
    let mut queue = frontend.queue(1);
    for index in 0..10 {
        queue.write(index * 8, &pattern(index, 4096));
        queue.read(index * 8, 4096);
    }
    queue.flush();
    drop(frontend);
    backend.log().wait_for("front-end left");
    backend
}

/// The names of all families.
fn families(scrape: &str) -> BTreeSet<String> {
    let types = scrape.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn a_scrape_has_what_each_disk_did() {
    let (one, two) = (Image::create(16 << 20), Image::without_sidecar(1 << 20));
    let (first, second) = (busy(&one), Backend::serve(&two, &["--integrity", "none"]));
    let exporter = Exporter::start(&[]);
    first.link_control(exporter.directory.path(), "one.control");
    second.link_control(exporter.directory.path(), "two.control");
    let scrape = exporter.scrape();
    let image = format!("image=\"{}\"", one.path().display());
    let (name, queue) = (r#"disk="one""#, r#"queue="1""#);
    let of_disk = [name, image.as_str()];
    assert_eq!(value(&scrape, "stableblk_up", &[name]), 1);
    assert_eq!(value(&scrape, "stableblk_up", &[r#"disk="two""#]), 1);
    assert_eq!(value(&scrape, "stableblk_size_bytes", &of_disk), 16 << 20);
    assert_eq!(value(&scrape, "stableblk_bytes_total", &[name, queue, "read"]), 40960);
    assert_eq!(value(&scrape, "stableblk_requests_total", &[name, queue, "write"]), 10);
    assert_eq!(value(&scrape, "stableblk_frontends_total", &of_disk), 1);
    let histogram = "stableblk_request_duration_seconds";
    assert_eq!(value(&scrape, &format!("{histogram}_count"), &[name, r#"kind="flush""#]), 1);
    assert_eq!(value(&scrape, &format!("{histogram}_bucket"), &[name, r#"kind="read""#, "+Inf"]), 10);
    assert!(value(&scrape, "stableblk_tag_log_bytes", &of_disk) > 0);
    assert_eq!(value(&scrape, "stableblk_tag_log_commit_duration_seconds_count", &of_disk), {
        let status = first.ask(&["status"]);
        status["tag_log"]["commits"]["count"].as_u64().unwrap()
    });
    let info = scrape.lines().find(|line| line.starts_with("stableblk_disk_info") && line.contains(name));
    assert!(info.unwrap().contains(r#"device="sidecar""#), "{info:?}");
    assert!(!scrape.contains(r#"stableblk_tag_log_bytes{disk="two""#), "a disk without a sidecar");
    // one disk alone, by its own socket
    let alone = first.ctl(&["metrics"]);
    assert_eq!((alone.code, families(&alone.stdout)), (Some(0), families(&scrape)));
    assert!(alone.stdout.contains(r#"stableblk_up{disk="control"} 1"#), "{}", alone.stdout);
    first.stop();
    second.stop();
}

#[test]
fn the_document_names_each_family_and_no_other() {
    let image = Image::create(1 << 20);
    let backend = busy(&image);
    let found = families(&backend.ctl(&["metrics"]).stdout);
    let table = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `stableblk_"));
    let cells = table.map(|line| format!("`stableblk_{}", line.split(" | ").next().unwrap()));
    let documented: BTreeSet<_> = cells
        .flat_map(|cell| cell.split(", ").map(|name| name.trim_matches('`').to_owned()).collect::<Vec<_>>())
        .collect();
    assert_eq!(documented, found);
    backend.stop();
}

/// Control sockets that never accept, send no end, or lies.
#[test]
fn sockets_that_are_dead_or_hostile_spoil_no_scrape() {
    let image = Image::create(1 << 20);
    let backend = busy(&image);
    let exporter = Exporter::start(&["--timeout", "1"]);
    let path = |name: &str| exporter.directory.path().join(name);
    let listen = |name: &str| UnixListener::bind(path(name)).unwrap();
    let good: Value = serde_json::from_str(&backend.ctl(&["status", "--json"]).stdout).unwrap();
    backend.link_control(exporter.directory.path(), "good.control");
    let _silent = listen("silent.control");
    drop(listen("stale.control"));
    fs::write(path("file.control"), "no socket").unwrap();
    // as that of a front-end: not to be connected to
    let vhost_user = listen("guest.sock");
    vhost_user.set_nonblocking(true).unwrap();
    let mut many_queues = good.clone();
    let queue = many_queues["queues"][0].clone();
    many_queues["queues"] = (0..300).map(|_| queue.clone()).collect();
    let mut twice = good.clone();
    twice["queues"] = [queue.clone(), queue.clone()].into_iter().collect();
    let mut overflow = good.clone();
    let bucket = serde_json::json!({"from_us": 0, "below_us": 1, "count": u64::MAX});
    overflow["queues"][0]["done"]["reads"]["buckets"] = [bucket.clone(), bucket].into_iter().collect();
    let mut forged = good.clone();
    forged["image"] = "a\" 1\n# EOF\nstableblk_up{disk=\"good\"} 0\n\\".into();
    let line = |status: &Value| format!("{}\n", serde_json::json!({ "ok": status }));
    let hostile = [
        ("endless", "x".repeat(1 << 14)),
        ("empty", String::new()),
        ("garbage", "\u{0}\u{1}{]\n".to_owned()),
        ("error", "{\"error\":\"no\"}\n".to_owned()),
        ("many", line(&many_queues)),
        ("twice", line(&twice)),
        ("overflow", line(&overflow)),
        ("forged", line(&forged)),
    ];
    for (name, sends) in hostile.clone() {
        let listener = listen(&format!("{name}.control"));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                while stream.write_all(sends.as_bytes()).is_ok() && sends.len() == 1 << 14 {}
            }
        });
    }
    // a reader of the exporter that sends nothing
    let _slow = TcpStream::connect(&exporter.address).unwrap();
    for _ in 0..2 {
        let scrape = exporter.scrape();
        assert_eq!(value(&scrape, "stableblk_up", &[r#"disk="good""#]), 1);
        assert_eq!(
            value(&scrape, "stableblk_requests_total", &[r#"disk="good""#, r#"queue="1""#, "write"]),
            10
        );
        for name in ["silent", "stale"].into_iter().chain(hostile.iter().map(|(name, _)| *name)) {
            let up = value(&scrape, "stableblk_up", &[&format!("disk=\"{name}\"")]);
            assert_eq!(up, u64::from(name == "forged"), "{name}");
        }
        assert_eq!(scrape.lines().filter(|line| *line == "# EOF").count(), 1);
        assert!(!scrape.contains(r#"disk="file"#) && !scrape.contains(r#"disk="guest"#), "{scrape}");
    }
    let connected = vhost_user.accept().unwrap_err();
    assert_eq!(connected.kind(), std::io::ErrorKind::WouldBlock);
    backend.stop();
}

#[test]
fn other_requests_than_a_scrape_are_refused_and_served_on() {
    let exporter = Exporter::start(&[]);
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "200"),
        (b"GET /etc/passwd HTTP/1.1\r\n\r\n", "404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "400"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "400"),
    ] {
        let (head, _) = exporter.ask(request);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
    }
    // more connections than are served at the same time
    let many: Vec<_> = (0..40).map(|_| TcpStream::connect(&exporter.address).unwrap()).collect();
    drop(many);
    wait_until(
        || {
            let mut stream = TcpStream::connect(&exporter.address).unwrap();
            let mut answer = String::new();
            let _ = stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
            let _ = stream.read_to_string(&mut answer);
            answer.contains("text/plain; version=0.0.4")
        },
        || exporter.process.stderr().so_far(),
    );
}

/// The names of metrics in the expressions of a document.
fn names_in(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"stableblk_[a-z_]+").unwrap();
    name.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

/// All values of `key` in a document.
fn all(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(name, value)| match value {
            Value::String(text) if name == key => found.push(text.clone()),
            value => all(value, key, found),
        }),
        Value::Array(values) => values.iter().for_each(|value| all(value, key, found)),
        _ => {}
    }
}

#[test]
fn each_metric_of_the_dashboard_and_the_rules_is_in_a_scrape() {
    let image = Image::create(1 << 20);
    let backend = busy(&image);
    let scrape = backend.ctl(&["metrics"]).stdout;
    let samples: BTreeSet<_> =
        scrape.lines().filter_map(|line| Some(line.split_once('{')?.0.to_owned())).collect();
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut expressions = Vec::new();
    all(&dashboard, "expr", &mut expressions);
    assert!(expressions.len() >= 15, "{expressions:?}");
    let ids: BTreeSet<_> =
        dashboard["panels"].as_array().unwrap().iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), dashboard["panels"].as_array().unwrap().len(), "panels with the same id");
    let rules = fs::read_to_string(RULES).unwrap();
    let of_rules = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    for expression in expressions.iter().map(String::as_str).chain(of_rules) {
        for name in names_in(expression) {
            assert!(samples.contains(&name), "{name} of {expression} is in no scrape");
        }
    }
    backend.stop();
}

#[test]
fn promtool_finds_no_fault_in_metrics_and_rules() {
    let Some(promtool) = prometheus_program("promtool") else {
        return skip("there is no promtool");
    };
    let image = Image::create(1 << 20);
    let backend = busy(&image);
    let exporter = Exporter::start(&[]);
    backend.link_control(exporter.directory.path(), "a.control");
    let (_, text) = exporter.ask(b"GET /metrics HTTP/1.0\r\n\r\n");
    let file = exporter.directory.path().join("scrape");
    fs::write(&file, text).unwrap();
    let mut lint = Command::new("sh");
    lint.args(["-c", "exec \"$0\" check metrics <\"$1\""]).arg(&promtool).arg(&file);
    let Finished { code, stdout, stderr } = finish(&mut lint);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    let rules = finish(Command::new(&promtool).args(["check", "rules", RULES]));
    assert_eq!(rules.code, Some(0), "{}{}", rules.stdout, rules.stderr);
    backend.stop();
}

/// Disks that were last scrubbed in the first hour, in the thousandth, or never, which are served
/// from the first hour or for a minute, and one without PI; looked at after 45 days and three
/// hours.
const OVERDUE: &str = r#"
rule_files: [RULES]
evaluation_interval: 1h
tests:
  - interval: 1h
    input_series:
      - {series: 'stableblk_scrub_last_done_timestamp_seconds{disk="old"}', values: 3600x1100}
      - {series: 'stableblk_uptime_seconds{disk="old"}', values: 60x1100}
      - {series: 'stableblk_scrub_last_done_timestamp_seconds{disk="new"}', values: 3600000x1100}
      - {series: 'stableblk_uptime_seconds{disk="new"}', values: 0+3600x1100}
      - {series: 'stableblk_scrub_last_done_timestamp_seconds{disk="never"}', values: 0x1100}
      - {series: 'stableblk_uptime_seconds{disk="never"}', values: 0+3600x1100}
      - {series: 'stableblk_scrub_last_done_timestamp_seconds{disk="just created"}', values: 0x1100}
      - {series: 'stableblk_uptime_seconds{disk="just created"}', values: 60x1100}
      - {series: 'stableblk_uptime_seconds{disk="plain"}', values: 0+3600x1100}
    promql_expr_test:
      - expr: count by (disk) (ALERTS{alertname="StableblkScrubOverdue", alertstate="firing"})
        eval_time: 1083h
        exp_samples:
          - {labels: '{disk="never"}', value: 1}
          - {labels: '{disk="old"}', value: 1}
"#;

#[test]
fn a_scrub_is_overdue_after_45_days() {
    let Some(promtool) = prometheus_program("promtool") else {
        return skip("there is no promtool");
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("overdue.yml");
    fs::write(&file, OVERDUE.replace("RULES", RULES)).unwrap();
    let tested = finish(Command::new(promtool).args(["test", "rules"]).arg(&file));
    assert_eq!(tested.code, Some(0), "{}{}", tested.stdout, tested.stderr);
}

#[test]
fn a_real_prometheus_scrapes_the_exporter_and_fires_an_alert() {
    let Some(prometheus) = prometheus_program("prometheus") else {
        return skip("there is no prometheus");
    };
    let image = Image::create(1 << 20);
    let backend = busy(&image);
    let exporter = Exporter::start(&["--timeout", "1"]);
    backend.link_control(exporter.directory.path(), "good.control");
    let _silent = UnixListener::bind(exporter.directory.path().join("silent.control")).unwrap();
    let prometheus = Prometheus::start(&prometheus, &exporter);
    prometheus.wait_for("stableblk_up{disk=\"good\"}", "1");
    prometheus.wait_for("sum(stableblk_requests_total{disk=\"good\", kind=\"write\"})", "10");
    prometheus.wait_for("sum(stableblk_request_duration_seconds_bucket{le=\"+Inf\", kind=\"read\"})", "10");
    prometheus.wait_for("up{job=\"stableblk\"}", "1");
    prometheus
        .wait_for("ALERTS{alertname=\"StableblkDiskDown\", disk=\"silent\", alertstate=\"firing\"}", "1");
    prometheus.wait_for("count(ALERTS{disk=\"good\"}) or vector(0)", "0");
    backend.stop();
    prometheus.wait_for("stableblk_up{disk=\"good\"}", "0");
}
