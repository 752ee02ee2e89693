//! A map of the disk as a picture: which of its parts are written, adopted or damaged.

use std::fmt::Write;
use std::io;
use std::ops::Range;

use integrity::sidecar::DamagedRange;

use super::findings::Findings;
use crate::control::log::escape;
use crate::storage::sidecar_file::SidecarFile;

/// Cells of a row, and rows.
const COLUMNS: u64 = 64;
const ROWS: u64 = 32;
/// The size of a cell with its border, in pixels.
const CELL: u64 = 12;
/// The height of the title, and that of the legend.
const TITLE: u64 = 28;

/// The state of a part of the disk: that of its worst block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum CellState {
    Unwritten,
    Written,
    /// Adopted after a crash.
    Adopted,
    /// In the damage list, and matching now.
    Listed,
    /// Not matching, or unreadable.
    Damaged,
}

const STATES: [CellState; 5] =
    [CellState::Unwritten, CellState::Written, CellState::Adopted, CellState::Listed, CellState::Damaged];

impl CellState {
    fn color(self) -> &'static str {
        match self {
            Self::Unwritten => "#e4e4e4",
            Self::Written => "#7fb58a",
            Self::Adopted => "#e8c547",
            Self::Listed => "#e08a3c",
            Self::Damaged => "#c0282d",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Unwritten => "not written",
            Self::Written => "written, matches",
            Self::Adopted => "adopted after a crash",
            Self::Listed => "in the damage list, matches now",
            Self::Damaged => "does not match",
        }
    }
}

/// The parts of a disk, in order.
#[derive(Debug)]
pub(super) struct DiskMap {
    cells: Vec<CellState>,
    /// Blocks in each part, but for the last.
    per_cell: u64,
    blocks: u64,
}

impl DiskMap {
    /// The map of what a check has found.
    pub(super) fn new(sidecar: &SidecarFile, findings: &Findings) -> io::Result<Self> {
        let (layout, blocks) = (sidecar.layout(), sidecar.layout().intervals());
        let mut map = Self::unwritten(blocks);
        let mut next = 0;
        while let Some(interval) = sidecar.next_written(next)?.filter(|&it| it < blocks) {
            let of_page = layout.intervals_of(layout.page_of(interval));
            next = of_page.end;
            map.mark(&of_page, CellState::Written);
        }
        let lbas = |range: super::LbaRange| range.first_lba..range.last_lba + 1;
        findings.adopted.iter().for_each(|range| map.mark(&lbas(*range), CellState::Adopted));
        let listed = sidecar.damage().list;
        listed.ranges().map(DamagedRange::lbas).for_each(|range| map.mark(&range, CellState::Listed));
        findings.bad.iter().for_each(|bad| map.mark(&lbas(bad.range), CellState::Damaged));
        Ok(map)
    }

    fn unwritten(blocks: u64) -> Self {
        let per_cell = blocks.div_ceil(COLUMNS * ROWS).max(1);
        let cells = usize::try_from(blocks.div_ceil(per_cell)).unwrap_or(0);
        Self { cells: vec![CellState::Unwritten; cells], per_cell, blocks }
    }

    fn mark(&mut self, lbas: &Range<u64>, state: CellState) {
        let cell = |lba: u64| usize::try_from(lba / self.per_cell).unwrap_or(usize::MAX);
        let (first, last) = (cell(lbas.start), cell(lbas.end.saturating_sub(1)));
        let end = last.saturating_add(1).min(self.cells.len());
        for cell in self.cells.get_mut(first..end).unwrap_or_default() {
            *cell = (*cell).max(state);
        }
    }

    /// The picture, as SVG.
    pub(super) fn to_svg(&self, image: &str) -> String {
        let rows = (self.cells.len() as u64).div_ceil(COLUMNS);
        let (width, height) = (COLUMNS * CELL, TITLE + rows * CELL + TITLE);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"0\" y=\"18\">{}: {} blocks, {} in each square</text>\n",
            for_xml(&escape(image)),
            self.blocks,
            self.per_cell
        );
        for (index, state) in (0..).zip(&self.cells) {
            let (x, y) = (index % COLUMNS * CELL, TITLE + index / COLUMNS * CELL);
            let (first, size) = (index * self.per_cell, CELL - 1);
            let last = (first + self.per_cell).min(self.blocks) - 1;
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{size}\" height=\"{size}\" fill=\"{}\"><title>LBA {first}-{last}: {}</title></rect>",
                state.color(),
                state.name()
            );
        }
        self.write_legend(&mut svg, TITLE + rows * CELL);
        svg.push_str("</svg>\n");
        svg
    }

    fn write_legend(&self, svg: &mut String, y: u64) {
        let mut x = 0;
        for state in STATES {
            let count = self.cells.iter().filter(|cell| **cell == state).count();
            let (size, text_x, text_y) = (CELL - 1, x + CELL + 4, y + 20);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{}\" width=\"{size}\" height=\"{size}\" fill=\"{}\"/><text x=\"{text_x}\" y=\"{text_y}\">{} ({count})</text>",
                y + 10,
                state.color(),
                state.name()
            );
            x += 2 * CELL + 8 * (state.name().len() as u64 + 4);
        }
    }
}

fn for_xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::CellState::{Adopted, Damaged, Listed, Unwritten, Written};
    use super::*;

    #[test]
    fn a_part_shows_its_worst_block() {
        let mut map = DiskMap::unwritten(3 * COLUMNS * ROWS + 1);
        assert_eq!((map.per_cell, map.cells.len()), (4, 1537));
        map.mark(&(0..9), Written);
        map.mark(&(5..6), Damaged);
        map.mark(&(4..8), Adopted);
        map.mark(&(6144..6145), Listed);
        map.mark(&(1 << 40..1 << 41), Damaged);
        assert_eq!((&map.cells[..4], map.cells[1536]), (&[Written, Damaged, Written, Unwritten][..], Listed));
        let svg = map.to_svg("a<b&c");
        assert!(svg.contains("a&lt;b&amp;c: 6145 blocks, 4 in each square"), "{svg}");
        assert!(svg.contains("<title>LBA 4-7: does not match</title>"));
        assert!(svg.contains("<title>LBA 6144-6144: in the damage list, matches now</title>"));
        assert_eq!(svg.matches("<rect").count(), 1537 + 5 + 1);
    }
}
