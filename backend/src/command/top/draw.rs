//! The screen.

use indicatif::{BinaryBytes, HumanDuration};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::rates::{DiskView, all};
use super::state::{SortBy, State, mean_us};
use crate::control::protocol::{DiskStatus, Latency, QueueStatus};

/// The longest bar of a histogram.
const BAR: u64 = 40;

/// Draws the state.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    frame.render_widget(Line::from(headline(state)), head);
    match state.disk() {
        Some(disk) if state.is_inside => draw_disk(frame, body, disk),
        _ => draw_table(frame, body, state),
    }
    let keys = if state.is_inside {
        "esc back  p pause  q quit"
    } else {
        "up/down select  enter look into  s/</> sort  r reverse  p pause  q quit"
    };
    frame.render_widget(Line::from(keys).style(Style::new().add_modifier(Modifier::REVERSED)), foot);
}

fn headline(state: &State) -> String {
    let silent = state.disks.iter().filter(|disk| disk.status.is_err()).count();
    let requests: f64 = state.disks.iter().map(|disk| disk.rates.requests).sum();
    let paused = if state.paused { "  PAUSED" } else { "" };
    let order = if state.reversed { " reversed" } else { "" };
    let sort = state.sort.title();
    let count = state.disks.len();
    format!("stableblk: {count} disks, {silent} silent, {requests:.0} IOPS, by {sort}{order}{paused}")
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, state: &State) {
    if state.disks.is_empty() {
        let none = "no control sockets were found: start disks with --control DIRECTORY/NAME.control";
        return frame.render_widget(Paragraph::new(none), area);
    }
    let columns = [
        (SortBy::Name.title(), 16),
        ("GUEST", 16),
        (SortBy::Requests.title(), 8),
        (SortBy::Read.title(), 11),
        (SortBy::Written.title(), 11),
        (SortBy::Latency.title(), 8),
        ("99 % us", 8),
        (SortBy::Depth.title(), 6),
        (SortBy::Errors.title(), 6),
        (SortBy::Damage.title(), 6),
    ];
    let widths = columns.map(|(_, width)| Constraint::Length(width)).into_iter().chain([Constraint::Min(8)]);
    let title = |name: &'static str| {
        let style = if name == state.sort.title() { Modifier::UNDERLINED } else { Modifier::empty() };
        Cell::from(name).style(Style::new().add_modifier(Modifier::BOLD | style))
    };
    let titles = columns.map(|(name, _)| title(name)).into_iter().chain([title("IMAGE")]);
    let table = Table::new(state.disks.iter().map(row), widths)
        .header(Row::new(titles))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut selected = TableState::new().with_selected(state.place());
    frame.render_stateful_widget(table, area, &mut selected);
}

fn row(disk: &DiskView) -> Row<'static> {
    let Ok(status) = &disk.status else {
        let reason = disk.status.as_ref().err().cloned().unwrap_or_default();
        let empty = (0..9).map(|_| "-".to_owned());
        return Row::new([disk.name.clone()].into_iter().chain(empty).chain([reason]));
    };
    let rates = &disk.rates;
    let slowest = rates.latency.as_ref().and_then(|latency| latency.quantile_us(0.99));
    Row::new([
        disk.name.clone(),
        guest(disk, status),
        format!("{:.0}", rates.requests),
        bytes(rates.bytes_read),
        bytes(rates.bytes_written),
        mean_us(disk).map_or("-".to_owned(), |mean| format!("{mean:.0}")),
        slowest.map_or("-".to_owned(), |us| us.to_string()),
        status.in_flight().to_string(),
        status.failed().to_string(),
        status.damage.map_or("-".to_owned(), |damage| damage.to_string()),
        status.properties.image.clone(),
    ])
}

fn guest(disk: &DiskView, status: &DiskStatus) -> String {
    let pid = status.frontend.as_ref().map(|frontend| frontend.pid);
    match (pid, &disk.guest) {
        (None, _) => "none".to_owned(),
        (Some(Some(pid)), Some(guest)) => format!("{guest}/{pid}"),
        (Some(Some(pid)), None) => pid.to_string(),
        (Some(None), _) => "unknown".to_owned(),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate, to be read")]
fn bytes(rate: f64) -> String {
    BinaryBytes(rate as u64).to_string()
}

/// One disk: what it is, its queues, and the times of its requests.
fn draw_disk(frame: &mut Frame<'_>, area: Rect, disk: &DiskView) {
    let lines = match &disk.status {
        Err(reason) => vec![format!("{}: {reason}", disk.name)],
        Ok(status) => lines_of(disk, status),
    };
    frame.render_widget(Paragraph::new(lines.into_iter().map(Line::from).collect::<Vec<_>>()), area);
}

fn lines_of(disk: &DiskView, status: &DiskStatus) -> Vec<String> {
    let (program, properties) = (&status.program, &status.properties);
    let uptime = HumanDuration(std::time::Duration::from_secs(program.uptime_s));
    let size = BinaryBytes(properties.bytes);
    let mut lines = vec![
        format!("{}: {} ({size}), device {}", disk.name, properties.image, properties.device),
        format!("stableblk {}, process {}, serving for {uptime}", program.version, program.pid),
        format!("guest: {}", guest(disk, status)),
    ];
    if status.flushes_fail {
        lines.push("a flush has failed: flushes fail until a restart".to_owned());
    }
    if let Some(limits) = &status.limits {
        lines.push(format!("limits: {limits}"));
    }
    if let Some(log) = &status.tag_log {
        let (used, size) = (BinaryBytes(log.used_bytes), BinaryBytes(log.bytes));
        lines.push(format!("tag log: {used} of {size}, {} commits", log.commits.count));
    }
    if let Some(doubt) = &status.crash_doubt {
        let marked = BinaryBytes(doubt.marked_bytes);
        lines.push(format!("a crash now would leave {marked} to be verified"));
    }
    if let Some(damage) = &status.damage {
        lines.push(format!("damage: {damage} blocks; `stableblk ctl SOCKET damage` lists them"));
    }
    if let Some(scrub) = &status.scrub {
        lines.extend(scrub.to_string().lines().map(str::to_owned));
    }
    lines.push(String::new());
    lines.push(format!(
        "{:>5} {:>8} {:>6} {:>6} {:>10} {:>10} {:>7}",
        "QUEUE", "STATE", "RING", "DEPTH", "READS", "WRITES", "ERRORS"
    ));
    lines.extend(status.queues.iter().map(queue_line));
    lines.push(String::new());
    // since the last look, or since the start where nothing was done
    let (latency, since) = match &disk.rates.latency {
        Some(latency) => (latency.clone(), "now"),
        None => (all(status), "since the start"),
    };
    lines.push(format!("times of requests {since}:"));
    lines.extend(histogram(&latency));
    lines
}

fn queue_line(queue: &QueueStatus) -> String {
    let QueueStatus { queue: index, state, ring_size, in_flight, done, .. } = queue;
    let (reads, writes, failed) = (done.reads.count, done.writes.count, queue.errors.failed());
    format!("{index:>5} {state:>8} {ring_size:>6} {in_flight:>6} {reads:>10} {writes:>10} {failed:>7}")
}

/// A line for each part of the histogram, by powers of two.
fn histogram(latency: &Latency) -> Vec<String> {
    let mut powers = [0_u64; 64];
    for bucket in &latency.buckets {
        powers[bucket.from_us.max(1).ilog2() as usize] += bucket.count;
    }
    let most = powers.iter().copied().max().unwrap_or(0).max(1);
    let used = powers.iter().enumerate().filter(|(_, count)| **count > 0);
    used.map(|(power, count)| {
        let bar = usize::try_from((count * BAR).div_ceil(most)).unwrap_or(0);
        format!("{:>10} us {count:>9} {}", 1_u64 << power, "█".repeat(bar))
    })
    .collect()
}
