//! A small disk, and the rules under which it is tried.

use std::rc::Rc;

use stableblk_integrity::sidecar::{File, IntentMode, Layout, Reason, Rules, Superblock, Verify};
use stableblk_integrity::{Guard, IntegrityProfile, PiType};

use crate::medium::Medium;
use crate::promise::{BlockPromise, Promise, Version};
use crate::recorder::Recorder;
use crate::served::with_short_log;

pub(crate) const UUID: [u8; 16] = [0xA5; 16];

/// A defect of a sidecar or its server, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    /// A sync that is left out.
    WithoutSync(File, Reason),
    /// A rule that is not kept.
    WithoutRule(Rules),
    /// The guest's flush does not sync the image.
    FlushWithoutData,
    /// The error of a sector that cannot be read is none that counts as damage.
    UnreadableStops,
    /// A sector that cannot be read is one of zeros.
    UnreadableIsZero,
    /// Only those sectors of a page are written that are not zero.
    PagesInPart,
    /// Recovery sees what a failed sync of the sidecar has lost.
    LostIsSeen,
    /// Of several pages that a commit writes side by side, the last is not durable.
    LastPartVolatile,
    /// The damage list lies in the part of the dirty map that is used.
    DamageInMap,
}

#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) mode: IntentMode,
    pub(crate) interval: u32,
    pub(crate) image_size: u64,
    /// The blocks that requests name, by their LBA.
    pub(crate) lbas: Vec<u64>,
    /// Pages of the tuple cache.
    pub(crate) cache_pages: usize,
    /// Blocks that may be in doubt without being named by the log.
    pub(crate) doubt_max: u64,
    /// When blocks are verified that a crash has left in doubt without a record.
    pub(crate) verify: Verify,
    pub(crate) mutant: Mutant,
}

impl Setup {
    /// Two blocks of two sectors in one region.
    pub(crate) fn small(mode: IntentMode) -> Self {
        Self {
            mode,
            interval: 1024,
            image_size: 2048,
            lbas: vec![0, 1],
            cache_pages: 4,
            doubt_max: 1024,
            verify: Verify::WhileServing { above: 0 },
            mutant: Mutant::None,
        }
    }

    /// Three blocks, of which only one may be in doubt without being named by the log.
    pub(crate) fn bounded(mode: IntentMode) -> Self {
        let verify = Verify::BeforeServing;
        Self { doubt_max: 1, image_size: 3072, lbas: vec![0, 1, 2], verify, ..Self::small(mode) }
    }

    /// Blocks on both sides of a border of regions.
    pub(crate) fn two_regions(mode: IntentMode) -> Self {
        let image_size = (1 << 20) + (8 << 10);
        Self { interval: 8192, image_size, lbas: vec![127, 128], ..Self::small(mode) }
    }

    /// Blocks in regions of which a write marks others with its own.
    pub(crate) fn marked_ahead(mode: IntentMode) -> Self {
        Self { interval: 32768, image_size: 4 << 20, lbas: vec![0, 64, 127], ..Self::small(mode) }
    }

    /// Blocks whose tuples lie in three pages of the array, of which the memory holds two.
    pub(crate) fn tight_cache(mode: IntentMode) -> Self {
        Self {
            interval: 512,
            image_size: 512 * 600,
            lbas: vec![0, 1, 248, 249, 599],
            cache_pages: 2,
            verify: Verify::BeforeServing,
            ..Self::small(mode)
        }
    }

    /// A third block, which is there when the image has grown.
    pub(crate) fn growing(mode: IntentMode) -> Self {
        Self { lbas: vec![0, 1, 2], verify: Verify::BeforeServing, ..Self::small(mode) }
    }

    /// The image's size when all blocks are there.
    pub(crate) fn grown_size(&self) -> u64 {
        (self.lbas[self.lbas.len() - 1] + 1) * u64::from(self.interval)
    }

    pub(crate) fn with(&self, mutant: Mutant) -> Self {
        Self { mutant, ..self.clone() }
    }

    pub(crate) fn rules(&self) -> Rules {
        match self.mutant {
            Mutant::WithoutRule(rule) => Rules::all() - rule,
            _ => Rules::all(),
        }
    }

    pub(crate) fn profile(&self) -> IntegrityProfile {
        IntegrityProfile::new(Guard::Crc64Nvme, PiType::Type1, self.interval).expect("a valid interval")
    }

    pub(crate) fn layout(&self) -> Layout {
        self.superblock().layout().clone()
    }

    /// A block that was never written.
    pub(crate) fn zeros(&self) -> Version {
        Version::of(&vec![0; self.interval as usize])
    }

    pub(crate) fn recorder(&self, medium: Medium, promise: Rc<Promise>) -> Recorder {
        Recorder::new(medium, promise, self.mutant)
    }

    /// A new sidecar on its medium.
    pub(crate) fn created(&self) -> Medium {
        let recorder = Recorder::new(Medium::default(), Rc::default(), Mutant::None);
        self.superblock().create(&recorder).expect("nothing fails");
        let mut medium = recorder.medium();
        medium.sync(File::Sidecar);
        medium
    }

    /// The promise for a new disk: zeros.
    pub(crate) fn unwritten(&self) -> Promise {
        Promise::of(vec![BlockPromise::of(self.zeros()); self.lbas.len()], false)
    }

    /// With a log as short as it may be, and as many blocks in doubt as there may be.
    fn superblock(&self) -> Superblock {
        let superblock = Superblock::new(UUID, self.profile(), self.image_size).expect("a valid layout");
        with_short_log(&superblock, Some(self.doubt_max))
    }
}
