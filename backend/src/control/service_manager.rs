//! Notifications of the service manager, by the protocol of `sd_notify(3)`.

use sd_notify::NotifyState;

/// Notifies the service manager, if there is one, that the process is in `state`.
pub(super) fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}
