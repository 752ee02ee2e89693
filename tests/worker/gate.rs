//! Holds a worker up in the middle of its work: where it submits an operation.

use std::sync::{Arc, Condvar, Mutex};

/// Open or closed; workers that come to a closed one wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<Passage>, Condvar)>);

#[derive(Debug, Default)]
struct Passage {
    closed: bool,
    waiting: usize,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.0.0.lock().unwrap().closed = true;
    }

    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().closed = false;
        self.0.1.notify_all();
    }

    /// For the worker: returns when the gate is open.
    pub(crate) fn pass(&self) {
        let (passage, changed) = &*self.0;
        let mut passage = passage.lock().unwrap();
        passage.waiting += 1;
        changed.notify_all();
        let mut passage = changed.wait_while(passage, |passage| passage.closed).unwrap();
        passage.waiting -= 1;
    }

    /// For the test: waits until a worker stands at the gate.
    pub(crate) fn until_reached(&self) {
        let (passage, changed) = &*self.0;
        drop(changed.wait_while(passage.lock().unwrap(), |passage| passage.waiting == 0).unwrap());
    }
}
