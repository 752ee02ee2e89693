//! Statuses of NVMe commands.

use std::fmt;
use std::io;

use crate::device::pi_failure::PiStatus;

/// Status Code Type and Status Code of a command that failed: NVM Express Base Specification,
/// "Status Field Definition".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NvmeStatus(u16);

/// The bits of status code type and status code; the others say whether to retry, and how.
const CODE: u16 = 0x7ff;

impl NvmeStatus {
    /// From what the kernel reports.
    pub(super) fn new(status: u16) -> Self {
        Self(status & CODE)
    }

    /// The check of tags that has failed, if that is the cause.
    pub(super) fn of_tags(self) -> Option<PiStatus> {
        match self.0 {
            0x181 => Some(PiStatus::Invalid),
            0x282 => Some(PiStatus::Guard),
            0x283 => Some(PiStatus::Application),
            0x284 => Some(PiStatus::Reference),
            0x288 => Some(PiStatus::Storage),
            _ => None,
        }
    }

    /// The status in an error that the device returned.
    pub(super) fn in_error(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref::<Self>().copied()
    }
}

impl fmt::Display for NvmeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVMe status {:03X}h", self.0)
    }
}

impl std::error::Error for NvmeStatus {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_about_retrying_do_not_matter() {
        assert_eq!(NvmeStatus::new(0x4181).of_tags(), Some(PiStatus::Invalid));
        assert_eq!(NvmeStatus::new(0x0282).of_tags(), Some(PiStatus::Guard));
        assert_eq!(NvmeStatus::new(0x4002).of_tags(), None);
    }
}
