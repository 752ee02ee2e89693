//! The filter of the log, which can be changed while the program runs.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The part of an error that says what a filter is.
const CURE: &str =
    "say error, warn, info, debug, trace or off, or a filter such as info,stableblk::session=debug";

/// The module of this program.
const PROGRAM: &str = "stableblk";

/// Why a text is not a filter.
#[derive(Debug, Error)]
pub enum FilterError {
    /// A word that would be taken for a module, so that nothing else would be logged.
    #[error("{0:?} is no level: {CURE}")]
    NoLevel(String),
    /// It has only modules of other programs, and no level for the rest.
    #[error("{0:?} lets nothing of stableblk through, not even errors: {CURE}")]
    SilencesAll(String),
    /// It does not have the syntax of a filter.
    #[error("{filter:?} is no filter, {reason}: {CURE}")]
    Syntax {
        /// The text.
        filter: String,
        /// The error in it. It is not a source, because the cure is to come last.
        reason: tracing_subscriber::filter::ParseError,
    },
    /// The log has ended.
    #[error("the log is closed")]
    Closed,
}

/// Parses a filter. One that would silence errors by a spelling mistake is refused; `off` does that
/// on purpose.
pub fn parse(filter: &str) -> Result<EnvFilter, FilterError> {
    refuse_bare_modules(filter)?;
    refuse_silence(filter)?;
    EnvFilter::try_new(filter).map_err(|reason| FilterError::Syntax { filter: filter.to_owned(), reason })
}

fn directives(filter: &str) -> impl Iterator<Item = &str> {
    filter.split(',').map(str::trim)
}

fn is_level(directive: &str) -> bool {
    !directive.is_empty() && directive.parse::<LevelFilter>().is_ok()
}

/// Refuses a bare word that is no level: it would name a module and so silence all others.
fn refuse_bare_modules(filter: &str) -> Result<(), FilterError> {
    match directives(filter).find(|directive| !is_level(directive) && !directive.contains(['=', '['])) {
        Some(directive) => Err(FilterError::NoLevel(directive.to_owned())),
        None => Ok(()),
    }
}

fn refuse_silence(filter: &str) -> Result<(), FilterError> {
    let lets_through =
        |directive: &str| is_level(directive) || directive.starts_with(PROGRAM) || directive.starts_with('[');
    if directives(filter).any(lets_through) {
        Ok(())
    } else {
        Err(FilterError::SilencesAll(filter.to_owned()))
    }
}

type Reload = Box<dyn Fn(EnvFilter) -> bool + Send + Sync>;

/// The current filter.
pub struct LogFilter {
    text: Mutex<String>,
    reload: Reload,
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogFilter").field("text", &self.text).finish_non_exhaustive()
    }
}

impl LogFilter {
    /// The current filter is `text`. `reload` replaces it, and returns whether that worked.
    pub fn new(text: &str, reload: impl Fn(EnvFilter) -> bool + Send + Sync + 'static) -> Self {
        Self { text: Mutex::new(text.to_owned()), reload: Box::new(reload) }
    }

    /// Replaces the filter.
    pub fn set(&self, text: &str) -> Result<(), FilterError> {
        let filter = parse(text)?;
        if !(self.reload)(filter) {
            return Err(FilterError::Closed);
        }
        text.clone_into(&mut self.text.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }

    /// The text of the filter, as it was given.
    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_does_not_silence_the_log() {
        let log = LogFilter::new("info", |_| true);
        for good in
            ["debug", "OFF", "warn,stableblk::session=debug", "stableblk[queue]=trace", "info,a=debug"]
        {
            log.set(good).unwrap();
            assert_eq!(log.text(), good);
        }
        for bad in ["", "debgu", "info,stableblk", "stableblk=loud", "sesion=debug"] {
            assert!(log.set(bad).is_err(), "{bad:?} was taken");
            assert_eq!(log.text(), "info,a=debug");
        }
    }
}
