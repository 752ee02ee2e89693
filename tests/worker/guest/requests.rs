//! Requests of the guest: laid out, made available, and waited for.

use std::collections::HashMap;
use std::sync::atomic::{Ordering, fence};

use stableblk::device::BlockDevice;
use stableblk::guest::memory_table::GuestMemory;
use virtio::testing::{ChainBuffer, Driver};
use vm_memory::{Bytes, GuestAddress};

use super::command::{Command, Layout};
use super::{Guest, NOT_WRITTEN, QUEUE_SPAN, Queue, TIME_LIMIT, is_signalled};

/// Between buffers, to notice a device that writes past one.
const MARGIN: [u8; 16] = [0xA5; 16];

/// The name of a request until the buffers of its queue are recycled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RequestId {
    pub(crate) queue: usize,
    pub(crate) head: u16,
}

/// A request that came back.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) id: RequestId,
    pub(crate) status: u8,
    pub(crate) used_len: u32,
    /// The contents of the data buffers of a read.
    pub(crate) data: Vec<u8>,
}

impl Completion {
    /// Status and used length.
    pub(crate) fn outcome(&self) -> (u8, u32) {
        (self.status, self.used_len)
    }
}

impl<B: BlockDevice> Guest<'_, B> {
    /// Lays a request out as a driver usually does: header, data, status.
    pub(crate) fn submit(&mut self, queue: usize, command: &Command) -> RequestId {
        let data = command.writable_len() - 1;
        let writable_cuts = if data > 0 { vec![data] } else { Vec::new() };
        self.submit_as(queue, command, &Layout { readable_cuts: vec![16], writable_cuts, indirect: false })
    }

    /// Lays a request out as asked, makes it available, and notifies the device if it wants that.
    pub(crate) fn submit_as(&mut self, queue: usize, command: &Command, layout: &Layout) -> RequestId {
        let id = self.lay_out(queue, command, layout);
        self.make_available(id);
        self.kick(queue);
        id
    }

    /// Lays a request out, for [`Self::make_available`].
    pub(crate) fn lay_out(&mut self, index: usize, command: &Command, layout: &Layout) -> RequestId {
        let memory = self.memory;
        let queue = &mut self.queues[index];
        let stream = command.readable();
        let readable = queue.place(u32::try_from(stream.len()).unwrap(), &layout.readable_cuts);
        let writable = queue.place(command.writable_len(), &layout.writable_cuts);
        let mut rest = stream.as_slice();
        for &(address, len) in &readable {
            let (part, tail) = rest.split_at(len as usize);
            memory.write_slice(part, GuestAddress(address)).unwrap();
            rest = tail;
        }
        for &(address, len) in &writable {
            memory.write_slice(&vec![NOT_WRITTEN; len as usize], GuestAddress(address)).unwrap();
        }
        for &(address, len) in readable.iter().chain(&writable) {
            memory.write_slice(&MARGIN, GuestAddress(address + u64::from(len))).unwrap();
        }
        let buffers: Vec<_> = readable
            .iter()
            .map(|&(address, len)| ChainBuffer::readable(address, len))
            .chain(writable.iter().map(|&(address, len)| ChainBuffer::writable(address, len)))
            .collect();
        let head = if layout.indirect {
            let table = queue.take_memory(buffers.len() as u64 * 16);
            queue.driver.write_indirect_chain(table, &buffers)
        } else {
            queue.driver.write_chain(&buffers)
        };
        queue.outstanding.insert(head, writable);
        RequestId { queue: index, head }
    }

    /// Makes a request available that was laid out.
    pub(crate) fn make_available(&mut self, id: RequestId) {
        self.queues[id.queue].driver.make_available(id.head);
    }

    /// Makes requests of one queue available that were laid out, and notifies the device. It finds
    /// all of them at once, wherever its worker is: one batch, as far as a batch goes.
    pub(crate) fn make_all_available(&mut self, ids: &[RequestId]) {
        let index = ids[0].queue;
        self.queues[index].driver.make_all_available(ids.iter().map(|id| id.head));
        self.force_kick(index);
    }

    /// Notifies the device of the last available chain, if it wants that.
    pub(crate) fn kick(&self, index: usize) {
        let queue = &self.queues[index];
        let wanted = if self.setup.event_idx {
            queue.driver.wants_notification()
        } else {
            // the driver's index goes out before the device's flag is read
            fence(Ordering::SeqCst);
            !queue.driver.notifications_suppressed()
        };
        if wanted {
            self.force_kick(index);
        }
    }

    /// Notifies the device, whether it wants that or not.
    pub(crate) fn force_kick(&self, index: usize) {
        rustix::io::write(&self.queues[index].kick, &1u64.to_ne_bytes()).unwrap();
    }

    /// Requests that have come back on any queue since the last call.
    pub(crate) fn completions(&mut self) -> Vec<Completion> {
        let memory = self.memory;
        let mut completions = Vec::new();
        for (index, queue) in self.queues.iter_mut().enumerate().filter(|(_, queue)| !queue.taken_over) {
            while let Some(used) = queue.driver.take_used() {
                let head = u16::try_from(used.head).unwrap();
                let writable = queue.outstanding.remove(&head).expect("a chain is returned once");
                let (data, status) = gather(memory, &writable);
                let id = RequestId { queue: index, head };
                completions.push(Completion { id, status, used_len: used.len, data });
            }
        }
        completions
    }

    /// Waits for an interrupt unless requests have come back already. Returns those that have.
    pub(crate) fn wait(&mut self) -> Vec<Completion> {
        loop {
            for queue in &self.queues {
                queue.driver.set_used_event(queue.driver.used_index());
            }
            // the event index goes out before the used index is read again
            fence(Ordering::SeqCst);
            let completions = self.completions();
            if !completions.is_empty() {
                return completions;
            }
            assert!(is_signalled(&self.call, TIME_LIMIT), "no request comes back");
            rustix::io::read(&self.call, &mut [0; 8]).unwrap();
        }
    }

    /// Waits for all of `ids`, in the order given.
    pub(crate) fn wait_for<const N: usize>(&mut self, ids: [RequestId; N]) -> [Completion; N] {
        let mut found = HashMap::new();
        while found.len() < N {
            for completion in self.wait() {
                assert!(ids.contains(&completion.id), "{completion:?} was not waited for");
                found.insert(completion.id, completion);
            }
        }
        ids.map(|id| found.remove(&id).unwrap())
    }

    /// Submits a request and waits for it, while nothing else is out.
    pub(crate) fn perform(&mut self, queue: usize, command: &Command) -> Completion {
        let id = self.submit(queue, command);
        let [completion] = self.wait_for([id]);
        completion
    }

    /// How many requests have not come back.
    pub(crate) fn outstanding(&self) -> usize {
        self.queues.iter().map(|queue| queue.outstanding.len()).sum()
    }

    /// Uses descriptors and buffers again from the start, when nothing is out.
    pub(crate) fn recycle(&mut self) {
        assert_eq!(self.outstanding(), 0);
        for queue in &mut self.queues {
            queue.driver = Driver::at(&**self.memory, queue.driver.addresses(), self.setup.ring_size);
            queue.next_buffer = queue.buffers_start;
        }
    }
}

impl Queue<'_> {
    /// Places for a stream of `len` bytes, cut at `cuts`.
    fn place(&mut self, len: u32, cuts: &[u32]) -> Vec<(u64, u32)> {
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([len]);
        starts.zip(ends).map(|(start, end)| (self.take_memory((end - start).into()), end - start)).collect()
    }

    fn take_memory(&mut self, len: u64) -> u64 {
        let address = self.next_buffer;
        self.next_buffer += len + MARGIN.len() as u64;
        assert!(self.next_buffer % QUEUE_SPAN > self.buffers_start % QUEUE_SPAN, "out of guest memory");
        address
    }
}

/// The bytes of `segments` except the last, and the last: data and status. Checks that nothing was
/// written behind them.
fn gather(memory: &GuestMemory, segments: &[(u64, u32)]) -> (Vec<u8>, u8) {
    let mut stream = Vec::new();
    for &(address, len) in segments {
        let start = stream.len();
        stream.resize(start + len as usize, 0);
        memory.read_slice(&mut stream[start..], GuestAddress(address)).unwrap();
        let mut margin = [0; MARGIN.len()];
        memory.read_slice(&mut margin, GuestAddress(address + u64::from(len))).unwrap();
        assert_eq!(margin, MARGIN, "the device wrote past a buffer");
    }
    let status = stream.pop().unwrap();
    (stream, status)
}
