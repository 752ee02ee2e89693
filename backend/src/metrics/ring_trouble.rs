//! Why a ring gives no requests, as the metrics of its queue have it.

use super::counter::Gauge;

/// Why a ring that the front-end has set up gives no requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingTrouble {
    /// It lies in no memory that the front-end has shared.
    NotShared,
    /// The driver has notified of buffers, and there are none.
    AlwaysEmpty,
}

impl RingTrouble {
    /// The value for a [`Gauge`]; 0 means that there is no trouble.
    pub const fn code(self) -> u64 {
        match self {
            Self::NotShared => 1,
            Self::AlwaysEmpty => 2,
        }
    }

    /// The trouble of a [`Gauge`].
    pub fn of(gauge: &Gauge) -> Option<Self> {
        [Self::NotShared, Self::AlwaysEmpty].into_iter().find(|trouble| trouble.code() == gauge.get())
    }

    /// The symptom, with the likely cause and its cure.
    pub const fn explain(self) -> &'static str {
        match self {
            Self::NotShared => {
                "the ring is in no memory that the front-end shares: let it share the guest's memory \
                (QEMU: `-object memory-backend-memfd,id=mem,size=...,share=on -numa node,memdev=mem`; \
                libvirt: `<access mode='shared'/>` in `<memoryBacking>`)"
            }
            Self::AlwaysEmpty => {
                "the driver has notified of requests, but the ring is empty as seen from here: the front-end \
                seems to share a private copy of the guest's memory: use `share=on` for QEMU's memory backend"
            }
        }
    }
}
