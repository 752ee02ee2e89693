//! The steps of a request, from asking for permission to its end.

use stableblk_integrity::sidecar::{self, Candidates, File, Media, Permission, SECTOR_SIZE};

use super::Host;
use super::request::{Request, Stage, Step, change_of};

impl Host<'_> {
    /// Takes the next step of a request.
    pub(super) fn advance(&mut self, index: usize) {
        let mut request = self.requests.remove(index);
        if self.step(&mut request) != Step::Done {
            self.requests.insert(index, request);
        }
    }

    fn step(&mut self, request: &mut Request) -> Step {
        match request.stage {
            Stage::Asking => self.step_asking(request),
            Stage::Granted | Stage::HalfWritten => self.step_writing(request),
            Stage::Settling => self.step_settling(request),
        }
    }

    fn step_asking(&mut self, request: &mut Request) -> Step {
        match self.served.journal.intend(&mut request.intent, change_of(request.command, &request.tuples)) {
            Ok(Permission::Later) => Step::Waits,
            Ok(Permission::Granted) => {
                request.stage = Stage::Granted;
                self.may_hold(&request.blocks, &request.data);
                Step::Moved
            }
            Err(_) if request.intent.is_logged() => {
                request.stage = Stage::Settling;
                Step::Moved
            }
            Err(_) => {
                self.over(&request.blocks);
                Step::Done
            }
        }
    }

    fn step_writing(&mut self, request: &mut Request) -> Step {
        let interval = self.setup.interval as usize;
        let half = (interval / 2).next_multiple_of(SECTOR_SIZE).min(request.data.len());
        let part = if request.stage == Stage::Granted { 0..half } else { half..request.data.len() };
        let offset = request.intent.intervals().start * interval as u64 + part.start as u64;
        if self.served.media.write_data(offset, &request.data[part]).is_err() {
            request.stage = Stage::Settling;
            return Step::Moved;
        }
        if request.stage == Stage::Granted {
            request.stage = Stage::HalfWritten;
            return Step::Moved;
        }
        self.served.journal.complete(&request.intent, change_of(request.command, &request.tuples));
        self.over(&request.blocks);
        Step::Done
    }

    fn step_settling(&mut self, request: &mut Request) -> Step {
        let (profile, interval) = (self.setup.profile(), self.setup.interval as usize);
        let intervals = request.intent.intervals().clone();
        let mut held = vec![0; request.data.len()];
        let offset = intervals.start * interval as u64;
        self.served.media.read(File::Image, offset, &mut held).expect("reads do not fail");
        let old = self.tuples_of(&intervals);
        let (mut tuples, mut adopted) = (Vec::new(), Vec::new());
        let (new, old) = (request.tuples.chunks_exact(16), old.chunks_exact(16));
        for ((lba, data), (new, old)) in intervals.zip(held.chunks_exact(interval)).zip(new.zip(old)) {
            let mut candidates = Candidates::default();
            candidates.push(new);
            candidates.push(old);
            let verdict = candidates.judge(&profile, lba, data);
            tuples.extend_from_slice(verdict.tuple());
            adopted.push(sidecar::is_adopted(&profile, verdict.tuple()));
        }
        self.served.journal.settle(&request.intent, &tuples);
        self.may_hold(&request.blocks, &held);
        let lbas = &self.setup.lbas[request.blocks.clone()];
        for (block, &lba) in self.promise[request.blocks.clone()].iter_mut().zip(lbas) {
            let is_adopted = adopted[usize::try_from(lba - lbas[0]).expect("few intervals")];
            block.versions.last_mut().expect("one was just pushed").is_adopted = is_adopted;
        }
        self.over(&request.blocks);
        Step::Done
    }
}
