//! Any guest block size on any granule of the device: requests begin and end anywhere among the
//! device's blocks.

use std::sync::Arc;

use integrity::{Guard, IntegrityProfile, PiType, sidecar};
use stableblk::device::mem::MemDevice;

use crate::guest::{Command, Guest, OK, Setup, guest_memory};
use crate::model::{SECTOR, stamped};

const GRANULES: [usize; 4] = [512, 4096, 8192, 65536];
const BLOCK_SIZES: [u32; 2] = [512, 4096];

fn profile(interval_size: u32) -> IntegrityProfile {
    let guard = if interval_size == 512 { Guard::Crc16T10Dif } else { Guard::Crc64Nvme };
    IntegrityProfile::new(guard, PiType::Type1, interval_size).unwrap()
}

#[test]
fn every_block_size_on_every_granule() {
    for granule in GRANULES {
        let profiles = [512, 4096].map(profile);
        let fitting = profiles.into_iter().filter(|profile| profile.interval_size() <= granule);
        for profile in fitting.map(Some).chain([None]) {
            for block_size in BLOCK_SIZES {
                assert_round_trip(profile, granule, block_size);
            }
        }
    }
}

/// Where requests start and end, in bytes: at the blocks before and behind each border of the first
/// granules and intervals.
fn places(granule: usize, block_size: usize) -> Vec<usize> {
    let borders = [0, granule, 2 * granule, 4 * granule].map(|border| border.next_multiple_of(block_size));
    let mut places: Vec<_> = borders
        .into_iter()
        .flat_map(|border| [border.saturating_sub(block_size), border, border + block_size])
        .collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// Writes, zeroes and reads between any two places, and sees on the media that nothing else has
/// changed.
fn assert_round_trip(profile: Option<IntegrityProfile>, granule: usize, block_size: u32) {
    let memory = guest_memory(1);
    let device = Arc::new(MemDevice::new(profile, 512 << 10).with_granule(granule));
    let mut guest = Guest::start(&memory, device.clone(), Setup { block_size, ..Setup::default() });
    let what = format!("blocks of {block_size} on {granule}, {profile:?}");
    let mut expected = stamped(0, 512 << 10, 1);
    assert_eq!(guest.perform(0, &Command::Write { sector: 0, data: expected.clone() }).outcome(), (OK, 1));
    let places = places(granule, block_size as usize);
    let extents = places.iter().flat_map(|&start| {
        let ends = places.iter().copied().filter(move |&end| end > start);
        ends.map(move |end| start..end)
    });
    for (stamp, extent) in (2..).zip(extents) {
        guest.recycle();
        let (sector, len) = ((extent.start / SECTOR) as u64, extent.len());
        let command = if stamp % 3 == 0 {
            expected[extent.clone()].fill(0);
            let sectors = u32::try_from(len / SECTOR).unwrap();
            Command::WriteZeroes { sector, sectors, unmap: stamp % 2 == 0 }
        } else {
            let data = stamped(sector, len, stamp);
            expected[extent.clone()].copy_from_slice(&data);
            Command::Write { sector, data }
        };
        assert_eq!(guest.perform(0, &command).outcome(), (OK, 1), "{extent:?}, {what}");
        assert!(device.media().data == expected, "{extent:?}, {what}");
        let read = guest.perform(0, &Command::Read { sector, len: u32::try_from(len).unwrap() });
        assert_eq!(read.status, OK, "{extent:?}, {what}");
        assert!(read.data == expected[extent.clone()], "{extent:?}, {what}");
    }
    guest.stop_all();
    if let Some(profile) = profile {
        let media = device.media();
        let mismatch = sidecar::mismatches(&profile, 0, &media.data, &media.tuples).unwrap().next();
        assert_eq!(mismatch, None, "{what}");
    }
}
