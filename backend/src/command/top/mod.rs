//! `stableblk top`: the disks of this host, and what they do now.

mod draw;
mod rates;
mod state;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use thiserror::Error;

use self::draw::draw;
use self::rates::{DiskView, views};
use self::state::{Outcome, State};
use super::disks::DisksArgs;

/// How often the screen looks for new samples while no key is pressed.
const LOOK: Duration = Duration::from_millis(100);

/// Show what the disks of this host do, as top does for processes
///
/// Keys: up and down select a disk, enter looks into it, s sorts by the next column, r reverses the
/// order, p pauses, q quits.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    #[command(flatten)]
    disks: DisksArgs,
    /// The time between two samples, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// Why there is nothing to see.
#[derive(Debug, Error)]
pub enum TopError {
    /// Standard output is a file or a pipe.
    #[error("standard output is no terminal: use `stableblk list`, or `stableblk exporter` for programs")]
    NoTerminal,
    /// The terminal cannot be used.
    #[error("cannot use the terminal")]
    Terminal(#[source] io::Error),
}

/// Shows the disks until a key quits.
pub fn run(args: &TopArgs) -> Result<ExitCode, TopError> {
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal);
    }
    let samples = sample(args).map_err(TopError::Terminal)?;
    // also at a panic, it leaves the terminal as it was
    let mut terminal = ratatui::try_init().map_err(TopError::Terminal)?;
    let shown = show(&mut terminal, &samples);
    ratatui::restore();
    shown.map(|()| ExitCode::SUCCESS).map_err(TopError::Terminal)
}

/// Takes samples on a thread of its own: a disk that does not reply must not hold up the keys.
fn sample(args: &TopArgs) -> io::Result<Receiver<Vec<DiskView>>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let (disks, interval) = (args.disks.clone(), Duration::from_secs(args.interval));
    thread::Builder::new().name("sample".to_owned()).spawn(move || {
        let mut before = None;
        loop {
            let begun = Instant::now();
            let (views, sample) = views(disks.find(), before.as_ref(), begun);
            before = Some(sample);
            if sender.send(views).is_err() {
                return;
            }
            thread::sleep(interval.saturating_sub(begun.elapsed()));
        }
    })?;
    Ok(receiver)
}

fn show(terminal: &mut DefaultTerminal, samples: &Receiver<Vec<DiskView>>) -> io::Result<()> {
    let mut state = State::new();
    loop {
        for disks in samples.try_iter() {
            state.update(disks);
        }
        terminal.draw(|frame| draw(frame, &state))?;
        if !event::poll(LOOK)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && state.press(key) == Outcome::Quit
        {
            return Ok(());
        }
    }
}
