//! An error with its causes, on one line.

use std::error::Error;

/// The error and its causes, as `error: cause: cause of the cause`.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}
