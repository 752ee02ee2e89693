//! docs/performance.md, from results: ratios first, absolute figures for orientation.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::cell::Cell;
use crate::charts;
use crate::error::BenchError;
use crate::results::Results;
use crate::sample::Sample;
use crate::size_chart;
use crate::sizes::Sizes;
use crate::statistics::Spread;
use crate::storage::Storage;
use crate::subject::Subject;
use crate::targets::{self, Asked, Target, mib};
use crate::workload::Length;

/// The text of the page. `<!-- name -->` marks the places of figures.
const TEMPLATE: &str = include_str!("performance.md");

const SIZES_CHART: &str = "sizes.svg";

/// Where the report goes.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The page
    #[arg(long, default_value = "docs/performance.md", value_name = "PATH")]
    page: PathBuf,
    /// Directory for its charts, beside the page
    #[arg(long, default_value = "performance", value_name = "NAME")]
    charts: PathBuf,
    /// Results of `sizes`, if there are any
    #[arg(long, default_value = "target/bench/sizes.json", value_name = "JSON")]
    sizes: PathBuf,
}

/// Writes the page, draws its charts, and says where.
pub(crate) fn write(results: &Results, args: &ReportArgs) -> Result<(), BenchError> {
    let directory = args.page.with_file_name(&args.charts);
    fs::create_dir_all(&directory).map_err(BenchError::file("create", &directory))?;
    let charts = charts::draw(results, &directory)?;
    let links: Vec<_> = charts
        .into_iter()
        .map(|(storage, file)| (storage, format!("{}/{file}", args.charts.display())))
        .collect();
    let sizes = sizes(args, &directory)?;
    fs::write(&args.page, page(results, &links, &sizes)).map_err(BenchError::file("write", &args.page))?;
    let verdicts: Vec<_> = targets::evaluate(results).iter().filter_map(Target::is_met).collect();
    let met = verdicts.iter().filter(|met| **met).count();
    println!("{}: {met} of {} measured values are as asked", args.page.display(), verdicts.len());
    Ok(())
}

/// The table of what a disk's size changes, below its chart.
fn sizes(args: &ReportArgs, directory: &Path) -> Result<String, BenchError> {
    if !args.sizes.exists() {
        return Ok("Not measured.".to_owned());
    }
    let sizes = Sizes::load(&args.sizes)?;
    size_chart::draw(&sizes, &directory.join(SIZES_CHART))?;
    Ok(format!("![sizes]({}/{SIZES_CHART})\n\n{}", args.charts.display(), sizes.table()))
}

fn page(results: &Results, charts: &[(Storage, String)], sizes: &str) -> String {
    let measured = [
        ("<!-- machine -->", machine(results)),
        ("<!-- targets -->", targets_table(results)),
        ("<!-- storages -->", storages(results, charts)),
        ("<!-- sizes -->", sizes.to_owned()),
        ("<!-- at_rest -->", at_rest(results)),
        ("<!-- client -->", client(results)),
    ];
    measured.iter().fold(TEMPLATE.to_owned(), |page, (name, text)| page.replace(name, text.trim_end()))
}

/// Load of a machine on which others' work is no part of the figures.
const QUIET_LOAD: f32 = 0.5;

fn machine(results: &Results) -> String {
    let Results { machine, lengths, .. } = results;
    let seconds = |milliseconds: u64| Duration::from_millis(milliseconds).as_secs_f64();
    let mut text = format!(
        "{}. {}, {} cores, {} MiB, Linux {}; load {:.2} when it began. {} rounds of {} ms after {} ms of warm-up, long \
         ones of {} s, {} rests of {} s, images of {} MiB. {}.\n",
        machine.date,
        machine.processor,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.load_before,
        results.rounds,
        lengths.milliseconds,
        lengths.warm_up_milliseconds,
        seconds(lengths.long_milliseconds),
        lengths.rests,
        seconds(lengths.rest_milliseconds),
        results.image_bytes >> 20,
        machine.versions.join("; "),
    );
    if machine.load_before > QUIET_LOAD {
        text.push_str(
            "\n**The machine was not quiet**: others' work is in these figures, as the brackets show.\n",
        );
    }
    for (storage, reason) in &results.skipped {
        let _ = writeln!(text, "\nNot measured: {}, because {reason}.", storage.name());
    }
    for (run, reason) in results.failures() {
        let _ =
            writeln!(text, "\nFailed: {}, {}, round {}: {reason}", run.cell, run.subject.title(), run.round);
    }
    text
}

fn targets_table(results: &Results) -> String {
    let mut table = Table::new(&["what", "where", "asked", "measured", ""]);
    for target in targets::evaluate(results) {
        let asked = match target.asked {
            Asked::AtLeast(least) => format!("at least {least}"),
            Asked::AtMost(most) => format!("at most {most}"),
        };
        let verdict = match target.is_met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "not measured",
        };
        let measured = target.measured.map_or_else(String::new, with_spread);
        table.row([target.what, target.cell, asked, measured, verdict.to_owned()]);
    }
    table.0
}

fn storages(results: &Results, charts: &[(Storage, String)]) -> String {
    let mut text = String::new();
    for storage in Storage::ALL.into_iter().filter(|storage| cells(results, *storage).next().is_some()) {
        let name = storage.name();
        let _ = writeln!(text, "### {name}\n");
        if let Some((_, chart)) = charts.iter().find(|(of, _)| *of == storage) {
            let _ = writeln!(text, "![{name}]({chart})\n");
        }
        for table in [throughput, latency, cpu, written] {
            let _ = writeln!(text, "{}", table(results, storage));
        }
    }
    text
}

/// The cells during which several checkpoints run; in a short one the end of a back-end decides.
fn written(results: &Results, storage: Storage) -> String {
    let what = "bytes written by bytes of the guest";
    let cells = cells(results, storage).filter(|cell| cell.workload.length == Length::Long);
    medians(results, storage, what, cells, |cell, subject| {
        Some(rounded(results.spread(cell, subject, Sample::written)?.median))
    })
}

/// Ratios to QEMU, on a large disk to the bounce alone, whose own figure stands beside.
fn throughput(results: &Results, storage: Storage) -> String {
    let base = if storage == Storage::Large { Subject::Bounce } else { Subject::Qemu };
    let subjects: Vec<_> = measured_on(results, storage).into_iter().filter(|it| *it != base).collect();
    let titles = subjects.iter().map(|subject| subject.title());
    let (by, own) = (format!("IOPS by those of {}", base.title()), format!("{}, thousand", base.title()));
    let head: Vec<_> = [by.as_str(), own.as_str()].into_iter().chain(titles).collect();
    let mut table = Table::new(&head);
    for cell in cells(results, storage) {
        let thousand = results.spread(cell, base, |sample| sample.iops / 1000.0);
        let ratio = |subject: &Subject| results.ratio(cell, (*subject, base), |sample| sample.iops);
        let ratios = subjects.iter().map(|subject| ratio(subject).map_or_else(String::new, with_spread));
        let base = thousand.map_or_else(String::new, |spread| rounded(spread.median));
        table.row([cell.workload.to_string(), base].into_iter().chain(ratios));
    }
    table.0
}

fn latency(results: &Results, storage: Storage) -> String {
    let what = "p50 / p99 / p99.9 in us";
    medians(results, storage, what, cells(results, storage), |cell, subject| {
        let figures: [fn(&Sample) -> f64; 3] = [|it| it.p50_us, |it| it.p99_us, |it| it.p999_us];
        let medians =
            figures.map(|figure| results.spread(cell, subject, figure).map(|it| rounded(it.median)));
        let [p50, p99, p999] = medians;
        Some(format!("{} / {} / {}", p50?, p99?, p999?))
    })
}

/// The kernel divides time into user and system by its clock's ticks, too coarsely for one run:
/// their shares are those of all rounds.
fn cpu(results: &Results, storage: Storage) -> String {
    let what = "CPU a request in us";
    medians(results, storage, what, cells(results, storage), |cell, subject| {
        let total = results.spread(cell, subject, Sample::cpu_us)?.median;
        let sum =
            |figure| results.figures(cell, subject, figure).iter().map(|(_, figure)| figure).sum::<f64>();
        let user_share = sum(|sample| sample.user_us) / sum(Sample::cpu_us);
        Some(format!("{}, {:.0} % user", rounded(total), user_share * 100.0))
    })
}

/// A table of absolute figures, cells by subjects; empty without cells.
fn medians(
    results: &Results,
    storage: Storage,
    what: &str,
    cells: impl Iterator<Item = Cell>,
    entry: impl Fn(Cell, Subject) -> Option<String>,
) -> String {
    let subjects = measured_on(results, storage);
    let head: Vec<_> = std::iter::once(what).chain(subjects.iter().map(|subject| subject.title())).collect();
    let mut table = Table::new(&head);
    let mut cells = cells.peekable();
    if cells.peek().is_none() {
        return String::new();
    }
    for cell in cells {
        let entries = subjects.iter().map(|subject| entry(cell, *subject).unwrap_or_default());
        table.row(std::iter::once(cell.workload.to_string()).chain(entries));
    }
    table.0
}

fn at_rest(results: &Results) -> String {
    let mut table = Table::new(&[
        "after",
        "back-end",
        "wake-ups a second",
        "CPU, share of a core",
        "own RSS in MiB, begin and end",
        "of the client's memory",
    ]);
    for it in &results.at_rest {
        let (before, after) = (it.memory_before, it.memory_after);
        table.row([
            format!("{} for {} s", it.cell, it.load_milliseconds / 1000),
            it.subject.title().to_owned(),
            rounded(it.idle.wake_ups_per_s),
            format!("{:.4}", it.idle.cpu),
            format!("{:.1}, {:.1}", mib(before.own_kib), mib(after.own_kib)),
            format!("{:.1}", mib(after.shared_kib)),
        ]);
    }
    table.0
}

/// Requests in flight from which on the client can be the limit.
const CLIENT_DEPTH: usize = 32;

/// How much of the time the client worked, where no disk takes any.
fn client(results: &Results) -> String {
    let mut table = Table::new(&[
        "null device",
        "back-end",
        "thousand IOPS",
        "client busy",
        "client alone, thousand IOPS",
    ]);
    for cell in cells(results, Storage::Null).filter(|cell| cell.workload.depth >= CLIENT_DEPTH) {
        for subject in measured_on(results, Storage::Null) {
            let busy = |sample: &Sample| sample.client_busy.unwrap_or(f64::NAN);
            let medians = (
                results.spread(cell, subject, |sample| sample.iops / 1000.0),
                results.spread(cell, subject, busy),
                results.spread(cell, subject, |sample| {
                    sample.iops / 1000.0 / sample.client_busy.unwrap_or(f64::NAN)
                }),
            );
            if let (Some(iops), Some(busy), Some(alone)) = medians {
                let share = format!("{:.0} %", busy.median * 100.0);
                let row =
                    [cell.workload.to_string(), subject.title().to_owned(), rounded(iops.median), share];
                table.row(row.into_iter().chain([rounded(alone.median)]));
            }
        }
    }
    table.0
}

fn cells(results: &Results, storage: Storage) -> impl Iterator<Item = Cell> {
    results.cells().into_iter().filter(move |cell| cell.storage == storage)
}

fn measured_on(results: &Results, storage: Storage) -> Vec<Subject> {
    let measured = |subject: &Subject| {
        results.runs.iter().any(|run| (run.cell.storage, run.subject) == (storage, *subject))
    };
    Subject::ALL.into_iter().filter(measured).collect()
}

fn with_spread(Spread { low, median, high }: Spread) -> String {
    if low.total_cmp(&high).is_eq() {
        return rounded(median);
    }
    format!("{} ({} to {})", rounded(median), rounded(low), rounded(high))
}

/// Three digits, as many as mean anything.
fn rounded(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}

/// A table of Markdown.
struct Table(String);

impl Table {
    fn new(head: &[&str]) -> Self {
        Self(format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len())))
    }

    fn row(&mut self, entries: impl IntoIterator<Item = String>) {
        let entries: Vec<_> = entries.into_iter().collect();
        let _ = writeln!(self.0, "| {} |", entries.join(" | "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix;
    use crate::testing::results;
    use crate::workload::{Pattern, Workload};

    fn null_cell() -> Cell {
        Cell { storage: Storage::Null, workload: Workload::new(Pattern::Randread, 4096, 32) }
    }

    fn made_up() -> Results {
        results(&[
            (null_cell(), Subject::PiCrc64, [150.0, 300.0, 100.0]),
            (null_cell(), Subject::Qemu, [100.0, 100.0, 100.0]),
        ])
    }

    #[test]
    fn every_place_in_the_template_is_filled() {
        let charts = [(Storage::Null, "performance/null.svg".to_owned())];
        let page = page(&made_up(), &charts, "![sizes](performance/sizes.svg)");
        for name in [
            "<!-- machine -->",
            "<!-- targets -->",
            "<!-- storages -->",
            "<!-- sizes -->",
            "<!-- at_rest -->",
            "<!-- client -->",
        ] {
            assert!(TEMPLATE.contains(name) && !page.contains(name), "{name}");
        }
        assert!(page.contains("![null](performance/null.svg)"));
        assert!(page.contains("2026-01-31. a processor, 2 cores, 4096 MiB, Linux 6.1.0"));
        assert!(page.contains("Not measured: ext4, because there is none."));
    }

    #[test]
    fn throughput_is_a_ratio_with_its_spread() {
        let table = throughput(&made_up(), Storage::Null);
        let row = table.lines().last().unwrap();
        assert_eq!(row, "| 4 KiB randread QD32 | 100 | 1.50 (1.00 to 3.00) |");
    }

    #[test]
    fn bytes_written_are_shown_of_long_runs() {
        assert_eq!(written(&made_up(), Storage::Null), "");
        let cell = Cell { storage: Storage::Ext4, workload: matrix::bytes_written() };
        let table = written(&results(&[(cell, Subject::PiCrc64, [1.0; 3])]), Storage::Ext4);
        assert_eq!(table.lines().last(), Some("| 4 KiB randwrite QD32, cold, long | 1.25 |"));
    }

    #[test]
    fn a_disk_without_a_chart_has_tables() {
        let cell = Cell { storage: Storage::Xfs, workload: matrix::flushes()[0] };
        let text = storages(&results(&[(cell, Subject::Qemu, [1.0; 3])]), &[]);
        assert!(text.contains("### xfs\n\n| IOPS by those of QEMU |"), "{text}");
    }

    #[test]
    fn targets_and_measurements_stand_side_by_side() {
        let table = targets_table(&made_up());
        let name = "| IOPS, bounce + PI 64b / QEMU | null 4 KiB randread QD32 |";
        let row = table.lines().find(|row| row.starts_with(name)).unwrap();
        assert_eq!(row.strip_prefix(name), Some(" at least 1 | 1.50 (1.00 to 3.00) | met |"));
        assert!(table.contains("**missed**") && table.contains("not measured"));
    }

    #[test]
    fn a_failed_run_is_named() {
        let mut results = made_up();
        results.runs[0].outcome = crate::results::Outcome::Failed("no socket".to_owned());
        assert!(
            machine(&results)
                .contains("Failed: null 4 KiB randread QD32, bounce + PI 64b, round 0: no socket")
        );
    }

    #[test]
    fn results_survive_json() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.json");
        made_up().save(&path).unwrap();
        assert_eq!(Results::load(&path).unwrap(), made_up());
    }

    #[test]
    fn a_busy_machine_is_reported() {
        let mut results = made_up();
        assert!(!machine(&results).contains("not quiet"));
        results.machine.load_before = 3.0;
        assert!(machine(&results).contains("not quiet"));
    }

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([0.123, 12.34, 1234.5].map(rounded), ["0.12", "12.3", "1234"].map(str::to_owned));
    }
}
