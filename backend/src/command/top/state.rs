//! The state of the screen, and what each key does to it.

use std::cmp::Ordering;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rates::DiskView;
use crate::control::protocol::DiskStatus;

/// The column by which disks are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SortBy {
    Name,
    Requests,
    Read,
    Written,
    Latency,
    Depth,
    Errors,
    Damage,
}

impl SortBy {
    const ALL: [Self; 8] = [
        Self::Name,
        Self::Requests,
        Self::Read,
        Self::Written,
        Self::Latency,
        Self::Depth,
        Self::Errors,
        Self::Damage,
    ];

    /// The name of the column.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Name => "DISK",
            Self::Requests => "IOPS",
            Self::Read => "READ/s",
            Self::Written => "WRITE/s",
            Self::Latency => "MEAN us",
            Self::Depth => "DEPTH",
            Self::Errors => "ERRORS",
            Self::Damage => "DAMAGE",
        }
    }

    fn step(self, by: usize) -> Self {
        let place = Self::ALL.iter().position(|it| *it == self).unwrap_or(0);
        Self::ALL[(place + by) % Self::ALL.len()]
    }

    /// Names in their order; of numbers, the greatest first.
    fn compare(self, one: &DiskView, other: &DiskView) -> Ordering {
        let by_number = |value: fn(&DiskView) -> f64| value(other).total_cmp(&value(one));
        match self {
            Self::Name => one.name.cmp(&other.name),
            Self::Requests => by_number(|disk| disk.rates.requests),
            Self::Read => by_number(|disk| disk.rates.bytes_read),
            Self::Written => by_number(|disk| disk.rates.bytes_written),
            Self::Latency => by_number(|disk| mean_us(disk).unwrap_or(0.0)),
            Self::Depth => depth(other).cmp(&depth(one)),
            Self::Errors => errors(other).cmp(&errors(one)),
            Self::Damage => damage(other).cmp(&damage(one)),
        }
    }
}

/// The mean time of the requests since the last sample.
#[expect(clippy::cast_precision_loss, reason = "a mean, to be read")]
pub(super) fn mean_us(disk: &DiskView) -> Option<f64> {
    disk.rates.latency.as_ref().map(|latency| latency.total_us as f64 / latency.count.max(1) as f64)
}

fn depth(disk: &DiskView) -> u64 {
    disk.status.as_ref().map_or(0, DiskStatus::in_flight)
}

fn errors(disk: &DiskView) -> u64 {
    disk.status.as_ref().map_or(0, DiskStatus::failed)
}

/// The blocks in the damage list, and the findings for which it had no room.
fn damage(disk: &DiskView) -> (u64, u64) {
    let damage = disk.status.as_ref().ok().and_then(|status| status.damage);
    damage.map_or((0, 0), |damage| (damage.blocks, damage.unlisted))
}

/// Whether the program continues after a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Continue,
    Quit,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct State {
    pub(super) disks: Vec<DiskView>,
    pub(super) sort: SortBy,
    pub(super) reversed: bool,
    pub(super) paused: bool,
    /// The name of the disk that is selected.
    pub(super) selected: Option<String>,
    /// Whether that disk alone is shown.
    pub(super) is_inside: bool,
}

impl State {
    pub(super) fn new() -> Self {
        let (sort, disks) = (SortBy::Requests, Vec::new());
        Self { disks, sort, reversed: false, paused: false, selected: None, is_inside: false }
    }

    /// Shows `disks`, unless the screen is paused.
    pub(super) fn update(&mut self, disks: Vec<DiskView>) {
        if !self.paused {
            self.disks = disks;
            self.sort();
        }
    }

    fn sort(&mut self) {
        let (sort, reversed) = (self.sort, self.reversed);
        self.disks.sort_by(|one, other| {
            let order = sort.compare(one, other);
            (if reversed { order.reverse() } else { order }).then_with(|| one.name.cmp(&other.name))
        });
    }

    /// The place of the disk that is selected.
    pub(super) fn place(&self) -> Option<usize> {
        let selected = self.selected.as_deref()?;
        self.disks.iter().position(|disk| disk.name == selected)
    }

    /// The disk that is selected.
    pub(super) fn disk(&self) -> Option<&DiskView> {
        self.place().map(|place| &self.disks[place])
    }

    fn select(&mut self, step: impl FnOnce(usize) -> usize) {
        let place = self.place().map_or(0, step).min(self.disks.len().saturating_sub(1));
        self.selected = self.disks.get(place).map(|disk| disk.name.clone());
    }

    /// Does what a key asks for.
    pub(super) fn press(&mut self, key: KeyEvent) -> Outcome {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Outcome::Quit,
            KeyCode::Esc if self.is_inside => self.is_inside = false,
            KeyCode::Char('q') | KeyCode::Esc => return Outcome::Quit,
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            KeyCode::Char('s' | '>') | KeyCode::Right => self.sort_by(self.sort.step(1)),
            KeyCode::Char('<') | KeyCode::Left => self.sort_by(self.sort.step(SortBy::ALL.len() - 1)),
            KeyCode::Char('r') => {
                self.reversed = !self.reversed;
                self.sort();
            }
            KeyCode::Char('j') | KeyCode::Down => self.select(|place| place + 1),
            KeyCode::Char('k') | KeyCode::Up => self.select(|place| place.saturating_sub(1)),
            KeyCode::Enter => {
                self.select(|place| place);
                self.is_inside = self.selected.is_some();
            }
            KeyCode::Backspace => self.is_inside = false,
            _ => {}
        }
        Outcome::Continue
    }

    fn sort_by(&mut self, sort: SortBy) {
        self.sort = sort;
        self.sort();
    }
}

#[cfg(test)]
mod tests {
    use super::super::rates::Rates;
    use super::*;

    fn disk(name: &str, requests: f64) -> DiskView {
        let rates = Rates { requests, ..Rates::default() };
        DiskView { name: name.to_owned(), guest: None, status: Err("none".to_owned()), rates }
    }

    fn names(state: &State) -> Vec<&str> {
        state.disks.iter().map(|disk| disk.name.as_str()).collect()
    }

    #[test]
    fn keys_sort_pause_and_select() {
        let press = |state: &mut State, code| state.press(KeyEvent::new(code, KeyModifiers::NONE));
        let mut state = State::new();
        state.update(vec![disk("a", 1.0), disk("b", 3.0), disk("c", 2.0)]);
        assert_eq!(names(&state), ["b", "c", "a"]);
        press(&mut state, KeyCode::Char('r'));
        assert_eq!(names(&state), ["a", "c", "b"]);
        press(&mut state, KeyCode::Char('<'));
        assert_eq!((state.sort, names(&state)), (SortBy::Name, vec!["c", "b", "a"]));
        // the selection stays with its disk
        press(&mut state, KeyCode::Down);
        press(&mut state, KeyCode::Down);
        assert_eq!(state.selected.as_deref(), Some("b"));
        press(&mut state, KeyCode::Char('r'));
        assert_eq!(state.place(), Some(1));
        press(&mut state, KeyCode::Char('p'));
        state.update(Vec::new());
        assert_eq!(names(&state), ["a", "b", "c"]);
        press(&mut state, KeyCode::Enter);
        assert!(state.is_inside && state.disk().is_some_and(|disk| disk.name == "b"));
        assert_eq!(press(&mut state, KeyCode::Esc), Outcome::Continue);
        press(&mut state, KeyCode::Char('p'));
        state.update(Vec::new());
        assert!(state.disk().is_none());
        press(&mut state, KeyCode::Enter);
        assert!(!state.is_inside, "there is no disk");
        assert_eq!(press(&mut state, KeyCode::Esc), Outcome::Quit);
    }
}
