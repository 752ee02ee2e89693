//! The two formats of the log.

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

impl LogFormat {
    /// A line of the log about the log itself.
    pub(super) fn own_line(self, text: &str) -> String {
        match self {
            Self::Text => format!("stableblk: {text}\n"),
            Self::Json => format!("{{\"level\":\"WARN\",\"fields\":{{\"message\":\"{text}\"}}}}\n"),
        }
    }
}
