//! The metrics of disks, in the format of OpenMetrics or in that of Prometheus.
//!
//! They are made from the status of each disk, so that disks of other versions can be shown
//! together. docs/metrics.md lists them.

mod damage;
mod families;
mod histogram;
mod labels;

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, prometheus_text, text};
use prometheus_client::registry::Registry;

use self::damage::{damage, scrub};
use self::families::{disks, front_ends, limits, queues, tag_log};
use self::labels::Families;
use super::disks::FoundDisk;
use crate::report;
use crate::storage::error::ImageError;

/// A text format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus 0.0.4, for readers that do not ask for the other.
    Prometheus,
}

impl MetricsFormat {
    /// The media type of the format.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The metrics of `disks`.
pub(super) fn metrics_of(disks: Vec<FoundDisk>, format: MetricsFormat) -> Result<String, ImageError> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Disks(disks)));
    let mut text = String::new();
    let encoded = match format {
        MetricsFormat::OpenMetrics => text::encode(&mut text, &registry),
        MetricsFormat::Prometheus => prometheus_text::encode(&mut text, &registry),
    };
    // a string takes everything: only a family that contradicts itself can fail
    encoded.map_err(|error| ImageError::Io {
        action: "make metrics for",
        path: "standard output".into(),
        source: std::io::Error::other(report::chain(&error)),
    })?;
    Ok(text)
}

#[derive(Debug)]
struct Disks(Vec<FoundDisk>);

impl Collector for Disks {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        disks(&self.0, &mut families)?;
        front_ends(&self.0, &mut families)?;
        queues(&self.0, &mut families)?;
        limits(&self.0, &mut families)?;
        damage(&self.0, &mut families)?;
        scrub(&self.0, &mut families)?;
        tag_log(&self.0, &mut families)
    }
}
