//! The beginning and the end of a session: between a clean superblock and the next.

use std::io;

use super::PAGE_SIZE;
use super::dirty_map::DirtyMap;
use super::journal::Journal;
use super::layout::Layout;
use super::media::{File, Media, Reason};
use super::pairing::TwoMoments;
use super::recovery::Recovery;
use super::rules::Rules;
use super::superblock::{IntentMode, LoadError, Loaded, State, Superblock, SuperblockError, doubt_max};

/// When the blocks are verified of which a crash has left only that their regions were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Before the sidecar is open.
    BeforeServing,
    /// While it is served, by the log's thread, if there are more regions than `above`. It applies
    /// to intents by region, before and after.
    WhileServing {
        /// The number of regions that may be verified before.
        above: u64,
    },
}

/// A sidecar that is ready to be served.
#[derive(Debug)]
pub struct Opened {
    /// The log, which is empty.
    pub journal: Journal,
    /// The recovery, if the session before was cut off.
    pub recovered: Option<Recovery>,
    /// The copy of the superblock that was not good, if one was not; it is good now.
    pub damaged: Option<(usize, SuperblockError)>,
    /// Whether a sync of the image failed in an earlier session, and a flush of the guest's is to
    /// fail for it: see [`Superblock::durability_lost`].
    pub durability_lost: bool,
}

/// Pages of the array, or runs of them, that a recovery keeps in memory until it is known that
/// image and sidecar are of one moment: 64 MiB. If there are more, the recovery is done twice.
const KEPT_MAX: usize = 1 << 14;

/// Regions that are read before serving when the others are verified later.
const SAMPLE_MAX: usize = 32;

/// How many times as many of the blocks that a crash leaves may lie in a sample as in the average
/// of all regions.
const SAMPLE_CLUSTER: u64 = 16;

/// Opens a sidecar for serving, and recovers it first where it was not closed. An image of another
/// moment is refused, and then nothing is written; without [`Rules::SAME_SESSION`] and
/// [`Rules::BOUNDED_ADOPTION`] it is accepted. Of the tuple array `cache_bytes` are kept in memory.
///
/// The caller has both files locked: a killed process that still has I/O under way must be gone.
pub fn open(
    media: &impl Media,
    mode: IntentMode,
    cache_bytes: usize,
    rules: Rules,
) -> Result<Opened, LoadError> {
    open_and_verify(media, mode, cache_bytes, Verify::BeforeServing, rules)
}

/// As [`open`]. `verify` says when the blocks are verified that a crash has left in doubt without a
/// record of them.
pub fn open_and_verify(
    media: &impl Media,
    mode: IntentMode,
    cache_bytes: usize,
    verify: Verify,
    rules: Rules,
) -> Result<Opened, LoadError> {
    let mut loaded = Loaded::from(media)?;
    let damaged = loaded.damaged.clone();
    if loaded.superblock.state != State::Clean {
        // a tuple that an earlier recovery wrote, and could not make durable, would not be written
        // again where it seems to be there
        media.forget_lost()?;
    }
    let deferred = deferred(media, &loaded.superblock, mode, verify)?;
    let recovered = match loaded.superblock.state {
        State::Clean => {
            refuse_two_moments(media, &loaded.superblock, None, rules)?;
            None
        }
        State::Open(_) => Some(recover(media, &mut loaded, deferred.as_ref(), rules)?),
    };
    let stamps = rules.contains(Rules::STAMP_BEFORE_DATA);
    if recovered.is_some() && stamps && media.stamp()?.is_some_and(|it| it != loaded.superblock.stamp()) {
        // The image is one session behind, and must not be two. The data read of this session may
        // never have become durable.
        let same = loaded.superblock.clone();
        loaded.replace(media, same)?;
        stamp(media, &mut loaded, rules)?;
    }
    let now = &loaded.superblock;
    let epoch = if rules.contains(Rules::NEW_EPOCH) { now.epoch + 1 } else { now.epoch };
    let tail = recovered.as_ref().map_or(now.tail, |recovered| recovered.next);
    let was_lost = now.durability_lost;
    let durability_lost = was_lost && rules.contains(Rules::LOSS_KEPT);
    let opened = Superblock { state: State::Open(mode), epoch, tail, durability_lost, ..now.clone() };
    let doubt_before = now.doubt_max;
    let mut opened = opened.with_doubt_max();
    let doubt_limit = opened.doubt_max;
    if deferred.is_some() {
        // blocks in doubt now may still be when this session is cut off
        opened.doubt_max = doubt_before.saturating_mul(2);
    }
    let stays_dirty = deferred.is_some() && rules.contains(Rules::DIRTY_UNTIL_VERIFIED);
    let cleans_map = recovered.is_some() && !stays_dirty;
    if cleans_map && !rules.contains(Rules::MAP_AFTER_SUPERBLOCK) {
        clean_map(media, opened.layout())?;
    }
    loaded.replace(media, opened)?;
    if stamps {
        stamp(media, &mut loaded, rules)?;
    }
    if cleans_map {
        clean_map(media, loaded.superblock.layout())?;
    }
    let mut journal = Journal::new(loaded, mode, cache_bytes, rules);
    if let (Some(Deferred { map, .. }), Some(recovered)) = (deferred, &recovered) {
        let adoptable = match doubt_before {
            0 => u64::MAX,
            most => most.saturating_add(recovered.behind_gap).saturating_sub(recovered.unnamed_adoptions),
        };
        journal = journal.unverified(map, doubt_limit, adoptable);
    }
    Ok(Opened { journal, recovered, damaged, durability_lost: was_lost })
}

/// Stamps the image with the session of `loaded`. To make that durable is a sync of the image,
/// whose failure is written down as that of any other.
fn stamp(media: &impl Media, loaded: &mut Loaded, rules: Rules) -> io::Result<()> {
    let stamped = media.set_stamp(&loaded.superblock.stamp());
    stamped.map_err(|error| loaded.lose_durability(media, rules, error))
}

/// Regions whose verification is deferred, of those that a crash has left in doubt.
struct Deferred {
    map: DirtyMap,
    /// Some of them, which are read at once: an image of another moment is to be noticed.
    sample: Vec<u64>,
}

impl Deferred {
    /// The most blocks of the sample that may match nothing.
    fn most_sampled(&self, layout: &Layout, doubt_max: u64) -> u64 {
        let (sampled, all) = (self.sample.len() as u64, self.map.dirty(layout.regions()).count() as u64);
        // blocks of one crash may lie close together
        (doubt_max.saturating_mul(SAMPLE_CLUSTER).saturating_mul(sampled) / all.max(1)).min(doubt_max)
    }
}

/// The regions to be verified later, if there are enough of them.
fn deferred(
    media: &impl Media,
    superblock: &Superblock,
    mode: IntentMode,
    verify: Verify,
) -> io::Result<Option<Deferred>> {
    let Verify::WhileServing { above } = verify else { return Ok(None) };
    if superblock.state != State::Open(IntentMode::Region) || mode != IntentMode::Region {
        return Ok(None);
    }
    let layout = superblock.layout();
    let (map, _) = DirtyMap::read(layout, media)?;
    let dirty = map.dirty(layout.regions()).count();
    if dirty as u64 <= above {
        return Ok(None);
    }
    let sampled = usize::try_from(above).unwrap_or(SAMPLE_MAX).min(SAMPLE_MAX);
    let step = (dirty / sampled.max(1)).max(1);
    let sample = map.dirty(layout.regions()).step_by(step).take(sampled).collect();
    Ok(Some(Deferred { map, sample }))
}

/// Brings the records of the log into the array, durably. The superblock still names the log
/// afterwards.
fn recover(
    media: &impl Media,
    loaded: &mut Loaded,
    deferred: Option<&Deferred>,
    rules: Rules,
) -> Result<Recovery, LoadError> {
    // recovery judges the data that a killed process wrote, so a power cut must not lose it
    // afterwards; its writes to the sidecar only help to judge, and are made durable with the
    // verdicts
    media.sync(File::Image, Reason::RecoveryLeftovers).map_err(|error| {
        let error = loaded.lose_durability(media, rules, error);
        io::Error::new(error.kind(), format!("cannot sync the image, {error}"))
    })?;
    let superblock = &loaded.superblock;
    // nothing is written before all is known: what is written could be what the right image would
    // need
    let (mut kept, mut are_all_kept) = (Vec::new(), true);
    let is_read = |region| deferred.is_none_or(|deferred| deferred.sample.contains(&region));
    let recovery = Recovery::run_in(media, superblock, rules, &is_read, |pages| {
        are_all_kept &= kept.len() < KEPT_MAX;
        if are_all_kept {
            kept.push(pages);
        }
        Ok(())
    })?;
    refuse_two_moments(media, superblock, Some(&recovery), rules)?;
    if let Some(deferred) = deferred.filter(|_| rules.contains(Rules::BOUNDED_ADOPTION)) {
        let (blocks, doubt_max) = (recovery.unnamed_adoptions, superblock.doubt_max);
        let most = deferred.most_sampled(superblock.layout(), doubt_max).saturating_add(recovery.behind_gap);
        if doubt_max > 0 && blocks > most {
            return Err(TwoMoments::TooMuchInDoubt { blocks, most }.into());
        }
    }
    if are_all_kept {
        kept.iter().try_for_each(|pages| pages.write(superblock.layout(), media))?;
    } else {
        drop(kept);
        Recovery::run_in(media, superblock, rules, &is_read, |pages| {
            pages.write(superblock.layout(), media)
        })?;
    }
    media.sync(File::Sidecar, Reason::RecoveryTuples)?;
    Ok(recovery)
}

fn refuse_two_moments(
    media: &impl Media,
    superblock: &Superblock,
    recovery: Option<&Recovery>,
    rules: Rules,
) -> Result<(), LoadError> {
    match TwoMoments::find(media, superblock, recovery, rules)? {
        Some(reason) => Err(reason.into()),
        None => Ok(()),
    }
}

/// Ends a session: brings everything into the array, and the superblock says so. All changes must
/// be complete.
///
/// Fails when the medium does; the sidecar can then be opened again, and is recovered. It says so
/// by then if it was the image that could not be synced, now or earlier in the session: the next
/// owner needs it.
pub fn close(journal: &mut Journal, media: &impl Media) -> io::Result<()> {
    // also when that fails: the records are durable by then, so less is in doubt when it is
    // recovered
    let emptied = empty(journal, media);
    // also when the log was empty, or could not be emptied: a sync that has failed before fails
    // this one
    journal.sync_image(media, Reason::Close)?;
    emptied?;
    if journal.verification().left > 0 {
        // it stays open: the next session verifies them
        return Ok(());
    }
    let mut superblock = journal.superblock().clone();
    let image_modified = media.image_modified().unwrap_or(0);
    let (state, tail) = (State::Clean, journal.next());
    let doubt_max = superblock.superblock.doubt_max.min(doubt_max(journal.layout()));
    let closed = Superblock { state, tail, doubt_max, image_modified, ..superblock.superblock.clone() };
    let stamp = closed.stamp();
    let is_after = journal.rules().contains(Rules::STAMP_AFTER_CLOSE);
    if !is_after {
        media.set_stamp(&stamp)?;
    }
    superblock.replace(media, closed)?;
    // both copies: the loss of one must not bring an older one back
    media.sync(File::Sidecar, Reason::Superblock)?;
    if is_after {
        // the sidecar is closed: an image that is still stamped as open belongs to it too
        let _ = media.set_stamp(&stamp);
    }
    Ok(())
}

/// Brings everything into the array. All changes must be complete.
pub(super) fn empty(journal: &mut Journal, media: &impl Media) -> io::Result<()> {
    journal.want_checkpoint();
    while journal.has_work() {
        if let Some(commit) = journal.begin_commit() {
            let result = commit.run(media);
            journal.end_commit(commit, &result);
            result?;
        }
        if let Some(sync) = journal.begin_data_sync() {
            let result = sync.run(media);
            // if it has failed, that of the checkpoint fails too
            journal.end_data_sync(&sync, &result);
        }
        if let Some(mut checkpoint) = journal.begin_checkpoint() {
            let result = loop {
                match checkpoint.step(media) {
                    Ok(false) => {}
                    last => break last.map(drop),
                }
            };
            journal.end_checkpoint(checkpoint, &result);
            result?;
        }
    }
    if !journal.is_empty() {
        return Err(io::Error::other("a change of blocks is still under way"));
    }
    Ok(())
}

fn clean_map(media: &impl Media, layout: &Layout) -> io::Result<()> {
    // written, not punched: a bit that is set later must not wait for the file system to find a
    // block
    let len = usize::try_from(layout.map_used()).map_err(io::Error::other)?;
    let zeros = vec![0; len.next_multiple_of(PAGE_SIZE)];
    media.write(layout.map_offset(), &zeros)
}
