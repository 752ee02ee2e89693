//! One SVG of what a disk's size changes: throughput, memory, and the time until it is served.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::BenchError;
use crate::sizes::Sizes;

const SIZE: (u32, u32) = (1100, 320);
const FONT: &str = "sans-serif";
const RED: RGBColor = RGBColor(0xD6, 0x27, 0x28);
const BLUE: RGBColor = RGBColor(0x1F, 0x77, 0xB4);

/// A line: its name, its colour, and a figure for each size.
struct Line<'a> {
    name: &'a str,
    colour: RGBColor,
    figures: Vec<Option<f64>>,
}

/// The name of a size.
pub(crate) fn name(gib: u64) -> String {
    if gib >= 1024 && gib.is_multiple_of(1024) { format!("{} TiB", gib >> 10) } else { format!("{gib} GiB") }
}

/// Draws the medians of `sizes`.
pub(crate) fn draw(sizes: &Sizes, path: &Path) -> Result<(), BenchError> {
    let failed = |reason: String| BenchError::Chart { path: path.to_owned(), reason };
    let names: Vec<_> = sizes.gib().into_iter().map(name).collect();
    let of_each = |figure: &dyn Fn(u64) -> Option<f64>| sizes.gib().into_iter().map(figure).collect();
    let line =
        |name, colour, figure: &dyn Fn(u64) -> Option<f64>| Line { name, colour, figures: of_each(figure) };
    let ratio = line("", RED, &|gib| sizes.ratio(gib).map(|ratio| ratio.median));
    let memory = line("", RED, &|gib| sizes.median(gib, |run| run.memory_mib));
    let opened = line("after a clean end", BLUE, &|gib| sizes.median(gib, |run| run.open_ms));
    let reopened = line("after kill -9 under load", RED, &|gib| sizes.median(gib, |run| run.reopen_ms));
    let panels = [
        ("4 KiB random writes QD32: IOPS, PI by bounce only", vec![ratio]),
        ("own memory of the back-end, MiB", vec![memory]),
        ("from its start until the disk is served, ms", vec![opened, reopened]),
    ];
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(error.to_string()))?;
    for ((title, lines), area) in panels.iter().zip(root.split_evenly((1, panels.len()))) {
        draw_panel(title, lines, &names, &area).map_err(|error| failed(error.to_string()))?;
    }
    root.present().map_err(|error| failed(error.to_string()))
}

fn draw_panel<'a>(
    title: &str,
    lines: &[Line<'_>],
    names: &[String],
    area: &DrawingArea<SVGBackend<'a>, Shift>,
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>> {
    let last = names.len().saturating_sub(1).max(1);
    let top = lines.iter().flat_map(|line| line.figures.iter().flatten()).copied().fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 14))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(52)
        .build_cartesian_2d(0..last, 0.0..top * 1.1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(names.len())
        .x_label_formatter(&|place| names.get(*place).cloned().unwrap_or_default())
        .draw()?;
    for Line { name, colour, figures } in lines {
        let points = figures.iter().enumerate().filter_map(|(place, figure)| Some((place, (*figure)?)));
        let series = LineSeries::new(points, colour.stroke_width(2)).point_size(3);
        let drawn = chart.draw_series(series)?;
        if !name.is_empty() {
            let colour = *colour;
            let mark = move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2));
            drawn.label(*name).legend(mark);
        }
    }
    if lines.len() > 1 {
        let mut labels = chart.configure_series_labels();
        let labels = labels.position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.7));
        labels.label_font((FONT, 12)).draw()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sizes::tests::made_up;

    #[test]
    fn the_axis_names_the_sizes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sizes.svg");
        draw(&made_up(), &path).unwrap();
        let svg = fs::read_to_string(path).unwrap();
        for text in ["1 GiB", "100 TiB", "own memory of the back-end, MiB", "after kill -9 under load"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn sizes_are_named_in_their_largest_unit() {
        assert_eq!(
            [1, 64, 1024, 1536, 102_400].map(name),
            ["1 GiB", "64 GiB", "1 TiB", "1536 GiB", "100 TiB"]
        );
    }
}
