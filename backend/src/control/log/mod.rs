//! The log on standard error. Its lines block no thread that serves, cannot forge other lines, and
//! are limited in number.

mod format;
mod limit;
mod writer;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, registry, reload};

pub use self::format::LogFormat;
use self::limit::Limit;
pub use self::writer::{LogWriter, escape};
use crate::control::log_filter::LogFilter;

/// Starts the log by `writer`, with `filter`, whose text is `text`.
pub fn start(writer: &LogWriter, format: LogFormat, text: &str, filter: EnvFilter) -> LogFilter {
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_target(false).with_ansi(false).with_writer(writer.clone());
    let limited = registry().with(filter).with(Limit::new(writer.clone(), format));
    match format {
        LogFormat::Text => limited.with(lines).init(),
        LogFormat::Json => limited.with(lines.json()).init(),
    }
    LogFilter::new(text, move |filter| handle.reload(filter).is_ok())
}
