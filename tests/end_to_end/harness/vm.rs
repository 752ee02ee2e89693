//! How most tests begin: an image, the program that serves it, and a front-end that shares memory
//! and runs a queue.

use std::borrow::Borrow;
use std::sync::Arc;

use virtio::Features;

use super::{Backend, Frontend, GuestMemory, Image, Queue};

/// Entries of a ring whose size does not matter.
const RING_SIZE: u16 = 256;

/// A [`Vm`] that is not started yet, with all that is special about it. `I` is an [`Image`], or a
/// reference to one that the test keeps.
pub(crate) struct Setup<'a, I = Image> {
    image: I,
    options: &'a [&'a str],
    refused: Features,
    ring_size: u16,
}

impl Setup<'static> {
    /// A new image of `size` bytes with a sidecar.
    pub(crate) fn disk(size: u64) -> Self {
        Self::of(Image::create(size))
    }

    /// A new image of `size` bytes without a sidecar, to be served unprotected.
    pub(crate) fn plain_disk(size: u64) -> Self {
        Self::of(Image::without_sidecar(size)).options(&["--integrity", "none"])
    }
}

impl<'a, I: Borrow<Image>> Setup<'a, I> {
    /// An image that exists.
    pub(crate) fn of(image: I) -> Self {
        Self { image, options: &[], refused: Features::empty(), ring_size: RING_SIZE }
    }

    /// Options of `stableblk`, in place of those set before.
    pub(crate) fn options(self, options: &'a [&'a str]) -> Self {
        Self { options, ..self }
    }

    /// Features that the driver does not take, although they are offered.
    pub(crate) fn refusing(self, refused: Features) -> Self {
        Self { refused, ..self }
    }

    /// The number of entries of queue 0.
    pub(crate) fn ring_size(self, ring_size: u16) -> Self {
        Self { ring_size, ..self }
    }

    /// Serves the image, connects a front-end and sets queue 0 up.
    pub(crate) fn start(self) -> Vm<I> {
        let ring_size = self.ring_size;
        self.connect().start(ring_size)
    }

    /// Serves the image and connects a front-end, which sets no queue up.
    pub(crate) fn connect(self) -> Connected<I> {
        let backend = Backend::serve(self.image.borrow(), self.options);
        let memory = GuestMemory::new();
        let frontend = Frontend::connect_without(&backend, &memory, self.refused);
        Connected { frontend, memory, backend, image: self.image }
    }
}

/// A front-end and what it is connected to. Tests take the fields out as they end them.
pub(crate) struct Connected<I = Image> {
    pub(crate) frontend: Frontend,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) backend: Backend,
    pub(crate) image: I,
}

impl<I: Borrow<Image>> Connected<I> {
    fn start(mut self, ring_size: u16) -> Vm<I> {
        let queue = self.frontend.queue_of_size(0, ring_size);
        let Self { frontend, memory, backend, image } = self;
        Vm { queue, frontend, memory, backend, image }
    }

    /// Disconnects, stops the back-end, and returns its log. Every block must match its tuple then.
    pub(crate) fn stop_clean(self) -> String {
        let Self { frontend, backend, image, .. } = self;
        drop(frontend);
        let log = backend.stop();
        image.borrow().assert_clean();
        log
    }
}

/// A [`Connected`] front-end whose queue 0 runs.
pub(crate) struct Vm<I = Image> {
    pub(crate) queue: Queue,
    pub(crate) frontend: Frontend,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) backend: Backend,
    pub(crate) image: I,
}

impl<I: Borrow<Image>> Vm<I> {
    /// As [`Connected::stop_clean`].
    pub(crate) fn stop_clean(self) -> String {
        let Self { frontend, memory, backend, image, .. } = self;
        Connected { frontend, memory, backend, image }.stop_clean()
    }
}
