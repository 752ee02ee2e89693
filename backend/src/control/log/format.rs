//! The two formats of the log.

/// The format of a line of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object a line.
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
