//! `stableblk info` of a device without a sidecar: its metadata, and the device that would serve
//! it.

use std::fmt;
use std::path::Path;

use integrity::{IntegrityProfile, PiType};
use serde::Serialize;

use super::image_info::ImageInfo;
use crate::device::{
    BlockIntegrity, KernelPiDevice, Namespace, NamespaceError, Source, StablePages, TupleRule,
};
use crate::report;
use crate::storage::image::{Access, Image};
use crate::storage::loss_mark::LossMark;

/// The report of a device. Sizes are in bytes.
#[derive(Debug, Serialize)]
pub(super) struct DeviceReport {
    #[serde(flatten)]
    image: ImageInfo,
    integrity: Option<MetadataInfo>,
    /// Why pages must not change while the kernel writes them.
    stable_pages: Option<String>,
    /// The device that serves it with `--integrity auto`.
    served_by: Option<&'static str>,
    /// Why no device can serve it.
    refused: Option<String>,
}

/// The metadata that the device keeps beside the data.
#[derive(Debug, Serialize)]
pub(super) struct MetadataInfo {
    /// The kernel's name of the format; it has none for Type 2.
    format: Option<&'static str>,
    found_by: Option<&'static str>,
    /// Whether the tuples are our own: the metadata is opaque to the device, which does not check
    /// it.
    own_tuples: bool,
    guard: &'static str,
    /// The type of PI; 0 for tuples of our own.
    pi_type: u8,
    interval_size: usize,
    metadata_size: usize,
    tuple_size: usize,
    tuple_offset: usize,
}

impl MetadataInfo {
    pub(super) fn new(profile: &IntegrityProfile, rule: TupleRule, source: Option<Source>) -> Self {
        let own_tuples = rule == TupleRule::Own;
        Self {
            format: if own_tuples { Some("nop") } else { profile.kernel_name() },
            found_by: source.map(|source| match source {
                Source::Capability => "FS_IOC_GETLBMD_CAP",
                Source::Sysfs => "sysfs",
            }),
            own_tuples,
            guard: profile.guard().name(),
            pi_type: match profile.pi_type() {
                _ if own_tuples => 0,
                PiType::Type1 => 1,
                PiType::Type2 => 2,
                PiType::Type3 => 3,
            },
            interval_size: profile.interval_size(),
            metadata_size: profile.metadata_size(),
            tuple_size: profile.tuple_size(),
            tuple_offset: profile.tuple_offset(),
        }
    }
}

impl DeviceReport {
    /// Examines the namespace whose character device is at `path`.
    pub(super) fn of_namespace(path: &Path) -> Result<Self, NamespaceError> {
        let namespace = Namespace::open(path, Access::Inspect)?;
        let format = namespace.format();
        Ok(Self {
            image: ImageInfo {
                image: path.to_string_lossy().into_owned(),
                format: if format.extended {
                    "NVMe namespace, interleaved metadata"
                } else {
                    "NVMe namespace, separate metadata"
                },
                size: namespace.capacity(),
                direct_io: true,
                in_use_by: None,
                durability_lost: LossMark::is_on(namespace.file()),
            },
            integrity: Some(MetadataInfo::new(&format.profile, format.rule, None)),
            stable_pages: None,
            served_by: Some("nvme-passthrough"),
            refused: None,
        })
    }

    /// Examines the block device `image`, which was named by `path`.
    pub(super) fn of_block_device(image: &Image, path: &Path) -> Self {
        let detected = BlockIntegrity::detect(image.file());
        let found = detected.as_ref().ok().and_then(Option::as_ref);
        let refused = match &detected {
            Ok(Some(integrity)) => {
                KernelPiDevice::probe(image, integrity).err().map(|error| report::chain(&error))
            }
            Ok(None) => {
                Some("it has no metadata: name a sidecar with `--integrity PATH`, or say `none`".to_owned())
            }
            Err(error) => Some(report::chain(error)),
        };
        Self {
            image: ImageInfo::new(image, path),
            integrity: found.map(|found| MetadataInfo::new(&found.profile, found.rule, Some(found.source))),
            stable_pages: StablePages::needed_by(image.file()).map(|reason| reason.to_string()),
            served_by: refused.is_none().then_some("kernel-pi"),
            refused,
        }
    }
}

impl fmt::Display for DeviceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.image)?;
        match &self.integrity {
            None => writeln!(f, "metadata   none")?,
            Some(metadata) => write!(f, "{metadata}")?,
        }
        if let Some(reason) = &self.stable_pages {
            writeln!(f, "pages      must be stable: {reason}")?;
        }
        match (self.served_by, &self.refused) {
            (Some(device), _) => writeln!(f, "served by  {device}"),
            (None, reason) => writeln!(f, "served by  nothing: {}", reason.as_deref().unwrap_or("unknown")),
        }
    }
}

impl fmt::Display for MetadataInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, guard, pi_type, interval_size, metadata_size, tuple_size, tuple_offset, .. } =
            self;
        write!(f, "metadata   {}", format.unwrap_or("protection information"))?;
        match self.found_by {
            Some(source) => writeln!(f, ", by {source}")?,
            None => writeln!(f)?,
        }
        let tuples = if self.own_tuples {
            "our own, unknown to the device".to_owned()
        } else {
            format!("PI type {pi_type}")
        };
        writeln!(
            f,
            "tuples     {tuples}, {guard} guard, {tuple_size} bytes at {tuple_offset} of {metadata_size} for each \
            {interval_size}-byte interval"
        )
    }
}
