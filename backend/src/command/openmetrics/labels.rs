//! Families of metrics, whose samples have the labels of a disk.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::histogram::Buckets;
use crate::command::disks::FoundDisk;
use crate::control::protocol::DiskStatus;

/// The labels of one sample.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// A disk that has sent its status.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disk<'a> {
    name: &'a str,
    pub(super) status: &'a DiskStatus,
}

impl<'a> Disk<'a> {
    /// The disks of `found` that have sent their status.
    pub(super) fn of(found: &'a [FoundDisk]) -> impl Iterator<Item = Self> + Clone {
        found.iter().filter_map(|disk| {
            let status = disk.status.as_ref().ok()?;
            Some(Self { name: &disk.name, status })
        })
    }

    fn labels<'b>(&'b self, more: &[(&'static str, &'b str)]) -> Labels<'b> {
        let mut labels = vec![("disk", self.name), ("image", self.status.properties.image.as_str())];
        labels.extend(more);
        labels
    }
}

/// Where families are written, one after the other.
pub(super) struct Families<'e>(DescriptorEncoder<'e>);

/// The samples of one family.
pub(super) struct Samples<'e>(MetricEncoder<'e>);

impl<'e> Families<'e> {
    pub(super) fn new(encoder: DescriptorEncoder<'e>) -> Self {
        Self(encoder)
    }

    /// Writes a family; `samples` writes its samples.
    pub(super) fn write(
        &mut self,
        kind: MetricType,
        name: &str,
        help: &str,
        samples: impl FnOnce(&mut Samples<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let name = format!("stableblk_{name}");
        // the encoder ends the text with a full stop
        let encoder = self.0.encode_descriptor(&name, help, None, kind)?;
        samples(&mut Samples(encoder))
    }

    /// A family of gauges with one sample for each disk for which `value` has one.
    pub(super) fn gauge<'a>(
        &mut self,
        name: &str,
        help: &str,
        disks: impl Iterator<Item = Disk<'a>>,
        value: impl Fn(&DiskStatus) -> Option<u64>,
    ) -> fmt::Result {
        self.write(MetricType::Gauge, name, help, |samples| {
            for disk in disks {
                if let Some(value) = value(disk.status) {
                    samples.gauge(disk, &[], value)?;
                }
            }
            Ok(())
        })
    }

    /// The same of counters.
    pub(super) fn counter<'a>(
        &mut self,
        name: &str,
        help: &str,
        disks: impl Iterator<Item = Disk<'a>>,
        value: impl Fn(&DiskStatus) -> Option<u64>,
    ) -> fmt::Result {
        self.write(MetricType::Counter, name, help, |samples| {
            for disk in disks {
                if let Some(value) = value(disk.status) {
                    samples.counter(disk, &[], value)?;
                }
            }
            Ok(())
        })
    }
}

impl Samples<'_> {
    /// A sample of a disk that has sent no status.
    pub(super) fn of_name(&mut self, name: &str, value: u64) -> fmt::Result {
        self.0.encode_family(&[("disk", name)])?.encode_gauge(&value)
    }

    pub(super) fn gauge(
        &mut self,
        disk: Disk<'_>,
        labels: &[(&'static str, &str)],
        value: u64,
    ) -> fmt::Result {
        self.0.encode_family(&disk.labels(labels))?.encode_gauge(&value)
    }

    pub(super) fn counter(
        &mut self,
        disk: Disk<'_>,
        labels: &[(&'static str, &str)],
        value: u64,
    ) -> fmt::Result {
        self.0.encode_family(&disk.labels(labels))?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// A counter of seconds.
    pub(super) fn seconds(
        &mut self,
        disk: Disk<'_>,
        labels: &[(&'static str, &str)],
        us: u64,
    ) -> fmt::Result {
        let seconds = std::time::Duration::from_micros(us).as_secs_f64();
        self.0.encode_family(&disk.labels(labels))?.encode_counter::<NoLabelSet, _, f64>(&seconds, None)
    }

    pub(super) fn histogram(
        &mut self,
        disk: Disk<'_>,
        labels: &[(&'static str, &str)],
        buckets: &Buckets,
    ) -> fmt::Result {
        let labels = disk.labels(labels);
        let mut encoder = self.0.encode_family(&labels)?;
        let (sum, count) = (buckets.seconds(), buckets.count());
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets.bounds(), None)
    }

    pub(super) fn info(&mut self, disk: Disk<'_>, labels: &[(&'static str, &str)]) -> fmt::Result {
        self.0.encode_info(&disk.labels(labels))
    }
}
