//! Tests of a ring on real files and devices.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::*;
use crate::device::OwnEvents;
use crate::device::bounce::FolioPool;
use crate::device::operation::{Piece, Transfer, TransferBuffer, TransferDirection};
use crate::storage::image::{Access, DirectIo};
use crate::storage::thin_device::ThinDevice;

#[test]
fn after_a_failed_flush_every_later_one_fails() {
    let pool = FolioPool::reserve(0).unwrap();
    let events = OwnEvents::new().unwrap();
    let file = tempfile::tempfile().unwrap();
    let durability = Durability::default();
    let ring = |for_sync| {
        Ring::<Step>::new(pool.arena(), &[file.as_fd(), for_sync], &durability, events.sources()).unwrap()
    };
    // an eventfd cannot be synced
    let (mut good, mut bad) = (ring(file.as_fd()), ring(events.sources().wake.as_fd()));
    let flush = |ring: &mut Ring<Step>| {
        ring.submit(DeviceOperation::Flush { request: 0 }, Step::Sync);
        ring.enter(true).unwrap();
        match ring.reap() {
            Some(RingEvent::Done(_, _, result)) => result.map_err(|error| error.raw_os_error()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(flush(&mut good), Ok(()));
    assert_eq!(flush(&mut bad), Err(Some(libc::EINVAL)));
    assert_eq!(flush(&mut good), Err(Some(libc::EIO)));
    assert!(durability.is_lost());
}

/// A worker that died must neither wait for ever nor free memory that the kernel may still write
/// to.
#[test]
fn operations_that_never_come_back_are_left_to_the_kernel() {
    let (mut pool, events) = (FolioPool::reserve(0).unwrap(), OwnEvents::new().unwrap());
    let (empty, _writer) = rustix::pipe::pipe().unwrap();
    let (file, durability) = (tempfile::tempfile().unwrap(), Durability::default());
    let mut ring =
        Ring::<Step>::new(pool.arena(), &[empty.as_fd(), file.as_fd()], &durability, events.sources())
            .unwrap();
    let piece = Piece { request: 0, data_offset: 0, data_len: 4096, lead: 0, merge: false };
    let buffer = TransferBuffer::Bounce(pool.take(4096, 4096).unwrap());
    // the offset of a pipe
    let transfer = Transfer::new(TransferDirection::Read, u64::MAX, 4096, buffer, piece);
    ring.submit(DeviceOperation::Transfer(transfer), Step::Transfer);
    ring.submit(DeviceOperation::Flush { request: 1 }, Step::Sync);
    let mut drained = Vec::new();
    assert!(!ring.drain(Duration::from_millis(200), |event| drained.push(event)));
    assert!(
        matches!(&drained[..], [RingEvent::Done(DeviceOperation::Flush { .. }, _, Ok(()))]),
        "{drained:?}"
    );
    // the second time it does not wait
    assert!(!ring.drain(Duration::from_secs(3600), drop));
}

/// As when of two syncs at the same time only the other one reports it.
#[test]
fn a_flush_fails_for_a_loss_that_another_sync_has_reported() {
    let Some(thin) = ThinDevice::attach() else { return };
    let image = Image::open(thin.path(), Access::Inspect, DirectIo::Never).unwrap();
    let (pool, events) = (FolioPool::reserve(0).unwrap(), OwnEvents::new().unwrap());
    let mut ring = Ring::<Step>::over(&image, pool.arena(), events.sources()).unwrap();
    let written = File::options().write(true).open(thin.path()).unwrap();
    written.write_all_at(&vec![1; 4 << 20], 2 << 20).unwrap();
    // past the `Durability` that would remember the failure
    image.file().sync_data().unwrap_err();
    ring.submit(DeviceOperation::Flush { request: 0 }, Step::Sync);
    ring.enter(true).unwrap();
    let Some(RingEvent::Done(_, _, result)) = ring.reap() else { panic!("nothing is done") };
    result.unwrap_err();
}

#[test]
fn flushes_that_arrive_during_one_are_done_together_by_the_next() {
    let pool = FolioPool::reserve(0).unwrap();
    let events = OwnEvents::new().unwrap();
    let file = tempfile::tempfile().unwrap();
    let mut ring = Ring::<Step>::new(
        pool.arena(),
        &[file.as_fd(), file.as_fd()],
        &Durability::default(),
        events.sources(),
    )
    .unwrap();
    ring.enter(false).unwrap();
    let flush = |ring: &mut Ring<Step>, request| {
        ring.submit(DeviceOperation::Flush { request }, Step::Sync);
    };
    (0..4).for_each(|request| flush(&mut ring, request));
    let mut submitted = Vec::new();
    let mut done = Vec::new();
    while done.len() < 6 {
        submitted.push(ring.uring.submission().len());
        ring.enter(true).unwrap();
        while let Some(event) = ring.reap() {
            let RingEvent::Done(DeviceOperation::Flush { request }, _, Ok(())) = event else {
                panic!("{event:?}")
            };
            done.push(request);
            if done.len() == 1 {
                (4..6).for_each(|request| flush(&mut ring, request));
            }
        }
    }
    done[1..4].sort_unstable();
    done[4..].sort_unstable();
    assert_eq!((done, submitted), (vec![0, 1, 2, 3, 4, 5], vec![1, 1, 1]));
}

#[test]
fn transfers_done_at_once_do_not_hold_back_completions() {
    let mut pool = FolioPool::reserve(0).unwrap();
    let file = tempfile::tempfile_in("/dev/shm").unwrap();
    file.set_len(1 << 20).unwrap();
    let events = OwnEvents::new().unwrap();
    let mut ring = Ring::<Step>::new(
        pool.arena(),
        &[file.as_fd(), file.as_fd()],
        &Durability::default(),
        events.sources(),
    )
    .unwrap();
    ring.submit(DeviceOperation::Flush { request: 0 }, Step::Sync);
    ring.enter(true).unwrap();
    for request in 1..9 {
        let piece = Piece { request, data_offset: 0, data_len: 4096, lead: 0, merge: false };
        let buffer = TransferBuffer::Bounce(pool.take(4096, 4096).unwrap());
        let transfer = Transfer::new(TransferDirection::Read, 0, 4096, buffer, piece);
        ring.submit(DeviceOperation::Transfer(transfer), Step::Transfer);
    }
    let first_two = [ring.reap(), ring.reap()];
    let is_flush = |event: &Option<RingEvent<Step>>| {
        matches!(event, Some(RingEvent::Done(DeviceOperation::Flush { .. }, _, Ok(()))))
    };
    assert!(first_two.iter().any(is_flush), "{first_two:?}");
    assert_eq!(std::iter::from_fn(|| ring.reap()).count(), 7, "the others");
}
