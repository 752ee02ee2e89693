//! Which requests of a disk are copied into stable folios.

use super::options::BounceChoice;
use crate::device::{DeviceInfo, StablePages};
use crate::worker::disk::Bounce;

/// Applies `choice` to a device of `info`, which may need stable pages, and logs what follows.
pub(super) fn choose_bounce(
    choice: BounceChoice,
    info: &DeviceInfo,
    stable_pages: Option<StablePages>,
) -> Bounce {
    let protected = info.protection.is_some();
    match (choice, stable_pages) {
        (BounceChoice::Always, _) => Bounce::Always,
        (BounceChoice::Auto, _) if protected => Bounce::Always,
        (BounceChoice::Auto, Some(reason)) => {
            tracing::info!("bouncing every request, since the image needs stable pages: {reason}");
            Bounce::Always
        }
        (BounceChoice::Auto, None) => Bounce::WhenUnaligned,
        (BounceChoice::Never, _) => {
            if protected {
                tracing::warn!(
                    "--bounce never with protection information: a guest that rewrites pages under I/O will \
                     get guard errors"
                );
            } else if let Some(reason) = stable_pages {
                tracing::warn!("--bounce never although the image needs stable pages: {reason}");
            }
            Bounce::WhenUnaligned
        }
    }
}
