//! fio with io_uring on the image itself: the limit of storage and kernel without a back-end.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::content;
use crate::error::BenchError;
use crate::sample::Sample;
use crate::usage::CpuUse;
use crate::workload::{Pattern, Workload};

/// fio for `workload` on `image`, with what io_uring has to be fast: registered files and buffers.
pub(crate) fn command(image: &Path, workload: Workload, warm_up: Duration, window: Duration) -> Command {
    let mut fio = Command::new("fio");
    fio.args(["--name=limit", "--ioengine=io_uring", "--registerfiles=1", "--fixedbufs=1", "--direct=1"]);
    fio.args(["--thread", "--group_reporting", "--time_based", "--norandommap", "--allow_file_create=0"]);
    // both directions as one, whichever there are
    fio.args(["--unified_rw_reporting=mixed", "--percentile_list=50:99:99.9", "--output-format=json"]);
    // from before a request is given to the kernel, as the client of a back-end counts, not from
    // when the kernel has taken it
    fio.args(["--lat_percentiles=1", "--clat_percentiles=0"]);
    fio.arg(format!("--filename={}", image.display()));
    fio.arg(format!("--rw={}", workload.pattern.name()));
    fio.arg(format!("--rwmixread={}", Pattern::READ_SHARE));
    fio.arg(format!("--bs={}", workload.block_size));
    fio.arg(format!("--iodepth={}", workload.depth));
    fio.arg(format!("--numjobs={}", workload.queues));
    fio.arg(format!("--ramp_time={}ms", warm_up.as_millis()));
    fio.arg(format!("--runtime={}ms", window.as_millis()));
    fio.arg(format!("--buffer_pattern={}", content::fio_pattern()));
    fio
}

#[derive(Debug, Deserialize)]
struct Report {
    jobs: Vec<Job>,
}

#[derive(Debug, Deserialize)]
struct Job {
    error: i32,
    mixed: Mixed,
    /// Percent of the run time, of one core a job.
    usr_cpu: f64,
    sys_cpu: f64,
}

#[derive(Debug, Deserialize)]
struct Mixed {
    total_ios: u64,
    /// The time of the run, in milliseconds.
    runtime: u64,
    lat_ns: Latency,
}

#[derive(Debug, Deserialize)]
struct Latency {
    percentile: Percentiles,
}

#[derive(Debug, Deserialize)]
struct Percentiles {
    #[serde(rename = "50.000000")]
    p50: f64,
    #[serde(rename = "99.000000")]
    p99: f64,
    #[serde(rename = "99.900000")]
    p999: f64,
}

/// The figures in what fio prints; its CPU time takes the place of a back-end's.
pub(crate) fn parse(output: &str, workload: Workload) -> Result<Sample, BenchError> {
    let failed = |reason: String| BenchError::Program { program: "fio".to_owned(), reason };
    // warnings come first
    let json = output.find('{').map_or("", |start| &output[start..]);
    let report: Report = serde_json::from_str(json).map_err(|error| failed(error.to_string()))?;
    let job = report.jobs.into_iter().next().ok_or_else(|| failed("no job in its output".to_owned()))?;
    if job.error != 0 {
        return Err(failed(format!("error {}", job.error)));
    }
    let window = Duration::from_millis(job.mixed.runtime);
    let of_window = |percent: f64| percent / 100.0 * window.as_secs_f64();
    let used = CpuUse { user: of_window(job.usr_cpu), system: of_window(job.sys_cpu) };
    let Percentiles { p50, p99, p999 } = job.mixed.lat_ns.percentile;
    Ok(Sample {
        p50_us: p50 / 1000.0,
        p99_us: p99 / 1000.0,
        p999_us: p999 / 1000.0,
        ..Sample::of_requests(job.mixed.total_ios, workload.block_size, window, used)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of fio 3.33, without the parts that are not read.
    const OUTPUT: &str = r#"fio: this platform does not support process shared mutexes
{ "fio version" : "fio-3.33", "jobs" : [ { "jobname" : "limit", "error" : 0, "job_runtime" : 600,
  "mixed" : { "io_bytes" : 503492608, "iops" : 408172.757475, "runtime" : 301, "total_ios" : 122860,
    "lat_ns" : { "min" : 1502, "percentile" : { "50.000000" : 119296, "99.000000" : 618496, "99.900000" : 4489216 } } },
  "usr_cpu" : 12.5, "sys_cpu" : 25.0 } ] }"#;

    #[test]
    fn figures_are_taken_from_its_output() {
        let workload = Workload::new(Pattern::Randrw, 4096, 32);
        let sample = parse(OUTPUT, workload).unwrap();
        assert!((sample.iops - 408_172.757_475).abs() < 1e-3);
        assert!((sample.p50_us - 119.296).abs() < 1e-9 && (sample.p999_us - 4489.216).abs() < 1e-9);
        // 12.5 % of 301 ms by 122860 requests
        assert!((sample.user_us - 0.306_242).abs() < 1e-6 && (sample.system_us - 0.612_485).abs() < 1e-6);
    }

    #[test]
    fn a_failed_job_has_no_figures() {
        let workload = Workload::new(Pattern::Randrw, 4096, 32);
        let failed = OUTPUT.replace(r#""error" : 0"#, r#""error" : 5"#);
        assert_eq!(parse(&failed, workload).unwrap_err().to_string(), "fio failed: error 5");
        parse("fio: no such file", workload).unwrap_err();
    }
}
