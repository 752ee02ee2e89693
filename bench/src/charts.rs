//! One SVG a kind of disk: IOPS and CPU time over queue depth, throughput over request size.

use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::cell::Cell;
use crate::error::BenchError;
use crate::results::Results;
use crate::sample::Sample;
use crate::storage::Storage;
use crate::subject::Subject;
use crate::workload::{Pattern, Workload};

const SIZE: (u32, u32) = (1100, 800);
const FONT: &str = "sans-serif";
/// One each, in the order of [`Subject::ALL`].
const COLOURS: [RGBColor; Subject::ALL.len()] = [
    RGBColor(0xD6, 0x27, 0x28),
    RGBColor(0xFF, 0x98, 0x96),
    RGBColor(0x8C, 0x56, 0x4B),
    RGBColor(0xFF, 0x7F, 0x0E),
    RGBColor(0x94, 0x67, 0xBD),
    RGBColor(0x1F, 0x77, 0xB4),
    RGBColor(0x2C, 0xA0, 0x2C),
    RGBColor(0x98, 0xDF, 0x8A),
    RGBColor(0x7F, 0x7F, 0x7F),
];

/// A figure over a power of two.
struct Panel<'a> {
    title: &'a str,
    x: fn(&Workload) -> usize,
    x_name: &'a str,
    figure: fn(&Sample) -> f64,
    admits: fn(&Workload) -> bool,
}

const PANELS: [Panel<'_>; 4] = [
    Panel {
        title: "thousand 4 KiB random reads a second",
        x: |workload| workload.depth,
        x_name: "queue depth",
        figure: |sample| sample.iops / 1000.0,
        admits: |workload| is_small(workload, Pattern::Randread),
    },
    Panel {
        title: "thousand 4 KiB random writes a second",
        x: |workload| workload.depth,
        x_name: "queue depth",
        figure: |sample| sample.iops / 1000.0,
        admits: |workload| is_small(workload, Pattern::Randwrite),
    },
    Panel {
        title: "CPU time of a 4 KiB random read in the back-end, microseconds",
        x: |workload| workload.depth,
        x_name: "queue depth",
        figure: Sample::cpu_us,
        admits: |workload| is_small(workload, Pattern::Randread),
    },
    Panel {
        title: "MiB/s of random reads: 4 KiB QD32, 64 KiB QD8, 1 MiB QD4",
        x: |workload| workload.block_size >> 10,
        x_name: "KiB of a request",
        figure: |sample| sample.mib_per_s,
        admits: |workload| {
            let shape = (workload.pattern, workload.queues, workload.block_size >> 10, workload.depth);
            matches!(
                shape,
                (Pattern::Randread, 1, 4, 32)
                    | (Pattern::Randread, 1, 64, 8)
                    | (Pattern::Randread, 1, 1024, 4)
            )
        },
    },
];

fn is_small(workload: &Workload, pattern: Pattern) -> bool {
    *workload == Workload::new(pattern, 4096, workload.depth)
}

/// Draws the results of each kind of disk that has a line into `directory`, and returns the names
/// of the files.
pub(crate) fn draw(results: &Results, directory: &Path) -> Result<Vec<(Storage, String)>, BenchError> {
    let has_line = |storage: &Storage| PANELS.iter().any(|panel| !lines(results, *storage, panel).is_empty());
    let measured = Storage::ALL.into_iter().filter(has_line);
    let file = |storage: Storage| {
        let name = format!("{}.svg", storage.name());
        draw_storage(results, storage, &directory.join(&name))?;
        Ok((storage, name))
    };
    measured.map(file).collect()
}

fn draw_storage(results: &Results, storage: Storage, path: &Path) -> Result<(), BenchError> {
    let failed = |reason: String| BenchError::Chart { path: PathBuf::from(path), reason };
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = root.fill(&WHITE).map_err(|error| failed(error.to_string()));
    drawn?;
    for (panel, area) in PANELS.iter().zip(root.split_evenly((2, 2))) {
        let lines = lines(results, storage, panel);
        draw_panel(panel, &lines, &area).map_err(|error| failed(error.to_string()))?;
    }
    root.present().map_err(|error| failed(error.to_string()))
}

struct Line {
    subject: Subject,
    /// Powers of two, and medians.
    points: Vec<(u32, f64)>,
}

fn lines(results: &Results, storage: Storage, panel: &Panel<'_>) -> Vec<Line> {
    let mut cells = results.cells();
    cells.retain(|cell| cell.storage == storage && (panel.admits)(&cell.workload));
    cells.sort_by_key(|cell| (panel.x)(&cell.workload));
    let point = |cell: &Cell, subject| {
        let median = results.spread(*cell, subject, panel.figure)?.median;
        Some(((panel.x)(&cell.workload).ilog2(), median))
    };
    let line =
        |subject| Line { subject, points: cells.iter().filter_map(|cell| point(cell, subject)).collect() };
    Subject::ALL.into_iter().map(line).filter(|line| !line.points.is_empty()).collect()
}

fn draw_panel<'a>(
    panel: &Panel<'_>,
    lines: &[Line],
    area: &DrawingArea<SVGBackend<'a>, Shift>,
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let first = points().map(|(x, _)| *x).min().unwrap_or(0);
    let last = points().map(|(x, _)| *x).max().unwrap_or(0).max(first + 1);
    let top = points().map(|(_, y)| *y).fold(f64::MIN_POSITIVE, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, (FONT, 15))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(first..last, 0.0..top * 1.05)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_desc(panel.x_name)
        .x_labels((last - first + 1) as usize)
        .x_label_formatter(&|power| (1_u64 << power).to_string())
        .draw()?;
    for line in lines {
        let colour = COLOURS[line.subject as usize];
        chart
            .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(3))?
            .label(line.subject.title())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.7))
        .label_font((FONT, 12))
        .draw()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::testing::results;

    #[test]
    fn a_chart_names_the_subjects_measured_and_no_others() {
        let cell =
            |depth| Cell { storage: Storage::Tmpfs, workload: Workload::new(Pattern::Randread, 4096, depth) };
        let results = results(&[
            (cell(1), Subject::PiCrc64, [1.0, 2.0, 3.0]),
            (cell(32), Subject::PiCrc64, [10.0, 20.0, 30.0]),
            (cell(32), Subject::Qemu, [5.0, 6.0, 7.0]),
        ]);
        let directory = tempfile::tempdir().unwrap();
        let drawn = draw(&results, directory.path()).unwrap();
        assert_eq!(drawn, [(Storage::Tmpfs, "tmpfs.svg".to_owned())]);
        let svg = fs::read_to_string(directory.path().join("tmpfs.svg")).unwrap();
        assert!(svg.contains("bounce + PI 64b") && svg.contains("QEMU"));
        assert!(!svg.contains("zero copy"));
        assert_eq!(lines(&results, Storage::Tmpfs, &PANELS[0])[0].points, [(0, 2.0), (5, 20.0)]);
    }
}
