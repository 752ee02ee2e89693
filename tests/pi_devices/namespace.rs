//! Formats of NVMe namespaces, and QEMU's configuration of a guest that has them.

use std::fmt::Write as _;
use std::path::Path;

/// A format, in the words of QEMU's `nvme-ns`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Namespace {
    pub(crate) name: &'static str,
    pub(crate) block_size: u32,
    pub(crate) ms: u32,
    pub(crate) pi: u32,
    /// The tuple is the first in the metadata.
    pub(crate) pil: bool,
    /// The guard has 64 bits.
    pub(crate) wide: bool,
    /// Data and metadata are interleaved.
    pub(crate) extended: bool,
    /// Bytes of data.
    pub(crate) size: u64,
}

impl Namespace {
    pub(crate) const fn new(name: &'static str, block_size: u32, ms: u32, pi: u32) -> Self {
        Self { name, block_size, ms, pi, pil: false, wide: false, extended: false, size: 32 << 20 }
    }

    pub(crate) const fn first(self) -> Self {
        Self { pil: true, ..self }
    }

    pub(crate) const fn extended(self) -> Self {
        Self { extended: true, ..self }
    }

    pub(crate) const fn wide(self) -> Self {
        Self { wide: true, ..self }
    }

    /// Bytes of a tuple.
    pub(crate) const fn tuple_size(self) -> u32 {
        if self.wide { 16 } else { 8 }
    }

    /// The command that changes a bit of the data at byte `offset` as it lies on the medium, with
    /// the tags left as they are.
    pub(crate) fn damage(self, offset: u64, character: &str) -> String {
        let Self { block_size, ms, extended, .. } = self;
        let part = if extended { "extended" } else { "data" };
        format!("damage {character} {} {block_size} {ms} {part} 100", offset / u64::from(block_size))
    }
}

/// QEMU's configuration of a guest with these namespaces, by their place in the list from 1 on;
/// their images are in `scratch`.
pub(crate) fn config(scratch: &Path, namespaces: &[Namespace]) -> String {
    let mut config = String::from(
        "[machine]\n  type = \"q35\"\n[memory]\n  size = \"1G\"\n[smp-opts]\n  cpus = \"4\"\n\
        [device \"nvme0\"]\n  driver = \"nvme\"\n  serial = \"stableblk\"\n",
    );
    for (nsid, namespace) in (1..).zip(namespaces) {
        let Namespace { name, block_size, ms, pi, pil, wide, extended, size } = *namespace;
        let image = scratch.join(format!("{name}.img"));
        let blocks = size / u64::from(block_size);
        std::fs::File::create(&image)
            .and_then(|file| file.set_len(blocks * u64::from(block_size + ms)))
            .unwrap();
        let (pil, pif, mset) = (u32::from(pil), if wide { 2 } else { 0 }, u32::from(extended));
        write!(
            config,
            "[drive \"drive{nsid}\"]\n  file = \"{}\"\n  if = \"none\"\n  format = \"raw\"\n  discard = \"unmap\"\n\
            [device \"ns{nsid}\"]\n  driver = \"nvme-ns\"\n  drive = \"drive{nsid}\"\n  bus = \"nvme0\"\n  nsid = \"{nsid}\"\n  \
            ms = \"{ms}\"\n  mset = \"{mset}\"\n  pi = \"{pi}\"\n  pil = \"{pil}\"\n  pif = \"{pif}\"\n  \
            logical_block_size = \"{block_size}\"\n  physical_block_size = \"{block_size}\"\n",
            image.display()
        )
        .unwrap();
    }
    config
}
