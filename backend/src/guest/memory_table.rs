//! Guest memory as the front-end shares it: regions of files, each with a guest and a front-end
//! address.

use std::fs::File;
use std::sync::Arc;

use thiserror::Error;
use vhost::vhost_user::message::VhostUserMemoryRegion;
use virtio::Segments;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::guest::dirty_log::{DirtyLog, DirtyLogError, RegionLog};
use crate::guest::mapping::{self, MappingError};
use crate::guest::sigbus::{self, Loss, WatchedMapping};

/// Guest memory as workers see it. Their writes to it are marked in the dirty log.
pub type GuestMemory = GuestMemoryMmap<RegionLog>;

/// Whether a part of `data` lies in memory that is [lost](sigbus).
pub fn is_lost(memory: &GuestMemory, data: &Segments) -> bool {
    data.iter()
        .flat_map(|segment| memory.get_slices(segment.address, segment.len as usize))
        .flatten()
        .any(|slice| sigbus::is_lost(slice.ptr_guard().as_ptr().addr()))
}

/// Whether any region of `memory`, or the dirty log that writes to it are marked in, is lost.
pub fn is_any_lost(memory: &GuestMemory) -> bool {
    memory
        .iter()
        .any(|region| sigbus::is_lost(region.as_ptr().addr()) || region.bitmap().dirty_log().loss().is_some())
}

/// Why a region of the front-end's was refused.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// There are more regions than were offered.
    #[error("more than {0} memory regions: each takes an open file, so raise `ulimit -Hn` where that is few")]
    TooMany(usize),
    /// Start and length overflow, or the region overlaps another one.
    #[error("memory region at guest address {0:#x} overlaps another one or the end of the address space")]
    Overlap(u64),
    /// There is no such region to remove.
    #[error("no memory region at guest address {0:#x} with that size and front-end address")]
    Unknown(u64),
    /// The file ends before the region does, or cannot be mapped.
    #[error("memory region at guest address {guest_addr:#x}")]
    Mapping {
        /// The guest address of the region.
        guest_addr: u64,
        /// The cause.
        source: MappingError,
    },
    /// A migration would not learn of writes to it.
    #[error(transparent)]
    NotLogged(#[from] DirtyLogError),
}

#[derive(Debug, Clone)]
struct Region {
    guest_addr: u64,
    frontend_addr: u64,
    size: u64,
    mapping: Arc<WatchedMapping<Arc<MmapRegion<RegionLog>>>>,
}

impl Region {
    fn map(region: &VhostUserMemoryRegion, file: File, log: &Arc<DirtyLog>) -> Result<Self, MemoryError> {
        let VhostUserMemoryRegion { guest_phys_addr, memory_size, user_addr, mmap_offset } = *region;
        let overlap = || MemoryError::Overlap(guest_phys_addr);
        guest_phys_addr.checked_add(memory_size).ok_or_else(overlap)?;
        user_addr.checked_add(memory_size).ok_or_else(overlap)?;
        let log = RegionLog::new(log.clone(), GuestAddress(guest_phys_addr));
        let mapping = mapping::map(file, mmap_offset, memory_size, log)
            .map_err(|source| MemoryError::Mapping { guest_addr: guest_phys_addr, source })?;
        Ok(Self {
            guest_addr: guest_phys_addr,
            frontend_addr: user_addr,
            size: memory_size,
            mapping: Arc::new(mapping.into_shared()),
        })
    }
}

/// The memory table of one session.
///
/// Regions are removed only while no worker runs. Workers hold the regions themselves, and get a
/// message when regions were added.
#[derive(Debug)]
pub struct MemoryTable {
    /// The most regions at a time.
    slots: usize,
    regions: Vec<Region>,
    memory: Arc<GuestMemory>,
    log: Arc<DirtyLog>,
}

impl MemoryTable {
    /// An empty table for at most `slots` regions, [`MEMORY_SLOTS_MAX`](super::MEMORY_SLOTS_MAX)
    /// or fewer.
    pub fn new(slots: usize) -> Self {
        Self { slots, regions: Vec::new(), memory: Arc::default(), log: Arc::default() }
    }

    /// The memory of all regions.
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// The log in which writes to the memory are marked.
    pub fn dirty_log(&self) -> &Arc<DirtyLog> {
        &self.log
    }

    /// The first address past all regions.
    pub fn end(&self) -> u64 {
        end(&self.regions)
    }

    /// Replaces all regions (`VHOST_USER_SET_MEM_TABLE`).
    pub fn replace(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
    ) -> Result<(), MemoryError> {
        let regions = regions
            .iter()
            .zip(files)
            .map(|(region, file)| Region::map(region, file, &self.log))
            .collect::<Result<_, _>>()?;
        self.set(regions)
    }

    /// Adds one region (`VHOST_USER_ADD_MEM_REG`).
    pub fn add(&mut self, region: &VhostUserMemoryRegion, file: File) -> Result<(), MemoryError> {
        let mut regions = self.regions.clone();
        regions.push(Region::map(region, file, &self.log)?);
        self.set(regions)
    }

    /// Removes the region with this guest address, size and front-end address
    /// (`VHOST_USER_REM_MEM_REG`).
    pub fn remove(&mut self, region: &VhostUserMemoryRegion) -> Result<(), MemoryError> {
        let VhostUserMemoryRegion { guest_phys_addr, memory_size, user_addr, .. } = *region;
        let same =
            |r: &Region| (r.guest_addr, r.size, r.frontend_addr) == (guest_phys_addr, memory_size, user_addr);
        let at = self.regions.iter().position(same).ok_or(MemoryError::Unknown(guest_phys_addr))?;
        let mut regions = self.regions.clone();
        regions.remove(at);
        self.set(regions)
    }

    /// Guest addresses of regions that are lost, each with the cause.
    pub fn losses(&self) -> impl Iterator<Item = (u64, Loss)> + '_ {
        self.regions.iter().filter_map(|region| Some((region.guest_addr, region.mapping.loss()?)))
    }

    /// The guest address of a front-end address, as ring addresses are given.
    pub fn guest_address(&self, frontend_addr: u64) -> Option<GuestAddress> {
        self.regions.iter().find_map(|region| {
            let offset = frontend_addr.checked_sub(region.frontend_addr)?;
            (offset < region.size).then(|| GuestAddress(region.guest_addr + offset))
        })
    }

    fn set(&mut self, mut regions: Vec<Region>) -> Result<(), MemoryError> {
        if regions.len() > self.slots {
            return Err(MemoryError::TooMany(self.slots));
        }
        regions.sort_by_key(|region| region.guest_addr);
        if let Some(pair) =
            regions.windows(2).find(|pair| pair[0].guest_addr + pair[0].size > pair[1].guest_addr)
        {
            return Err(MemoryError::Overlap(pair[1].guest_addr));
        }
        self.log.check_covers(end(&regions))?;
        let mapped = regions.iter().map(|region| {
            let mapping = (**region.mapping).clone();
            GuestRegionMmap::with_arc(mapping, GuestAddress(region.guest_addr)).map(Arc::new)
        });
        let mapped: Vec<_> = mapped.collect::<Option<_>>().ok_or(MemoryError::Overlap(u64::MAX))?;
        self.memory = Arc::new(if mapped.is_empty() {
            GuestMemory::new()
        } else {
            GuestMemory::from_arc_regions(mapped).map_err(|_| MemoryError::Overlap(regions[0].guest_addr))?
        });
        self.regions = regions;
        Ok(())
    }
}

/// The first address past `regions`, which are in order.
fn end(regions: &[Region]) -> u64 {
    regions.last().map_or(0, |region| region.guest_addr + region.size)
}
