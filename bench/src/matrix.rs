//! Which cells are measured, how often and how long.

use clap::{Args, ValueEnum};

use crate::cell::Cell;
use crate::storage::Storage;
use crate::subject::Subject;
use crate::workload::{Distribution, Length, Pattern, Start, Workload};

use Pattern::{Randread, Randrw, Randwrite};

const DEPTHS: [usize; 4] = [1, 4, 32, 128];
const KIB_4: usize = 4 << 10;
/// Block sizes of large requests, and the depth that gives their throughput.
const LARGE: [(usize, usize); 2] = [(64 << 10, 8), (1 << 20, 4)];

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Extent {
    /// Every pattern, depth, size and number of queues
    Full,
    /// The cells that have a target
    Quick,
    /// Large disks alone, and flushes
    RealSize,
}

/// The cells to run.
#[derive(Debug, Clone, Args)]
pub(crate) struct Filter {
    /// Only these disks
    #[arg(long, value_enum, value_delimiter = ',')]
    storage: Vec<Storage>,
    /// Only these subjects
    #[arg(long, value_enum, value_delimiter = ',')]
    subject: Vec<Subject>,
    /// Only these patterns
    #[arg(long, value_enum, value_delimiter = ',')]
    rw: Vec<Pattern>,
    /// Only requests of this size, in bytes
    #[arg(long, value_delimiter = ',')]
    block_size: Vec<usize>,
    /// Only this number of requests in flight
    #[arg(long, value_delimiter = ',')]
    depth: Vec<usize>,
    /// Only this number of queues
    #[arg(long, value_delimiter = ',')]
    queues: Vec<usize>,
}

impl Filter {
    pub(crate) fn admits_storage(&self, storage: Storage) -> bool {
        admits(&self.storage, &storage)
    }

    pub(crate) fn admits_subject(&self, subject: Subject) -> bool {
        admits(&self.subject, &subject)
    }

    fn admits_workload(&self, workload: &Workload) -> bool {
        let Workload { pattern, block_size, depth, queues, .. } = workload;
        admits(&self.rw, pattern)
            && admits(&self.block_size, block_size)
            && admits(&self.depth, depth)
            && admits(&self.queues, queues)
    }
}

fn admits<T: PartialEq>(chosen: &[T], one: &T) -> bool {
    chosen.is_empty() || chosen.contains(one)
}

impl Extent {
    fn workloads(self) -> Vec<Workload> {
        let small = |patterns: &[Pattern], depths: &[usize]| -> Vec<_> {
            let of_pattern = |pattern: &Pattern| {
                let pattern = *pattern;
                depths.iter().map(move |depth| Workload::new(pattern, KIB_4, *depth)).collect::<Vec<_>>()
            };
            patterns.iter().flat_map(of_pattern).collect()
        };
        let large = |with_depth_1: bool| {
            LARGE.into_iter().flat_map(move |(block_size, depth)| {
                let depths = if with_depth_1 { vec![1, depth] } else { vec![depth] };
                depths.into_iter().flat_map(move |depth| {
                    [Randread, Randwrite].map(|pattern| Workload::new(pattern, block_size, depth))
                })
            })
        };
        match self {
            Self::Full => {
                let multi = [2, 4].into_iter().flat_map(|queues| {
                    [Randread, Randwrite].map(|pattern| Workload::new(pattern, KIB_4, 32).with_queues(queues))
                });
                small(&[Randread, Randwrite, Randrw], &DEPTHS)
                    .into_iter()
                    .chain(large(true))
                    .chain(multi)
                    .collect()
            }
            Self::RealSize => vec![],
            Self::Quick => small(&[Randread, Randwrite], &[1, 32]).into_iter().chain(large(false)).collect(),
        }
    }

    fn has(self, subject: Subject, cell: &Cell) -> bool {
        let workload = &cell.workload;
        let large = workload.block_size > KIB_4;
        match (self, subject) {
            // one is enough for the bytes that are written: nothing is compared
            _ if *workload == bytes_written() => subject == Subject::PiCrc64,
            _ if cell.storage == Storage::Large => match subject {
                Subject::PiCrc64 | Subject::Bounce => true,
                Subject::PiCrc64Quarter => {
                    workload.depth > 1 && workload.length == Length::Short && workload.start != Start::Cold
                }
                _ => false,
            },
            (Self::Quick, Subject::PiT10 | Subject::Bounce) => false,
            // nothing is asked of large requests against it
            (Self::Quick, Subject::Fio) => !large,
            _ if workload.flush_every > 0 => match workload.length {
                Length::Short => matches!(subject, Subject::PiCrc64 | Subject::ZeroCopy | Subject::Qemu),
                Length::Long => matches!(subject, Subject::PiCrc64 | Subject::Qemu),
            },
            _ => true,
        }
    }

    /// The cells on `storage`, each with those who take turns in it.
    pub(crate) fn cells(self, storage: Storage, filter: &Filter) -> Vec<(Cell, Vec<Subject>)> {
        let mut workloads = match storage {
            Storage::Large => large_disk(),
            Storage::Xfs => flushes().to_vec(),
            _ => self.workloads(),
        };
        if storage == Storage::Ext4 {
            workloads.extend(flushes());
            workloads.extend([database(), bytes_written()]);
        }
        if (self, storage) == (Self::Quick, Storage::Null) {
            // growth with depth and queues is asked of the null device alone; large requests are
            // not
            workloads.retain(|workload| workload.block_size == KIB_4);
            workloads.push(Workload::new(Randread, KIB_4, 128));
            workloads.push(Workload::new(Randread, KIB_4, 32).with_queues(2));
        }
        if self == Self::Quick {
            // in a short time neither has a meaning
            workloads.retain(|workload| ![mix(), bytes_written()].contains(workload));
        }
        workloads.retain(|workload| filter.admits_workload(workload));
        let with_subjects = |workload| {
            let cell = Cell { storage, workload };
            let takes_turns =
                |it: &Subject| filter.admits_subject(*it) && it.can_do(&cell) && self.has(*it, &cell);
            (cell, Subject::ALL.into_iter().filter(takes_turns).collect::<Vec<_>>())
        };
        workloads.into_iter().map(with_subjects).filter(|(_, subjects)| !subjects.is_empty()).collect()
    }
}

/// A disk whose tuples do not all fit into memory: a small one hides the price of the others.
fn large_disk() -> Vec<Workload> {
    let on = |pattern, depth, start| Workload::new(pattern, KIB_4, depth).starting(start);
    vec![
        on(Randread, 32, Start::Cold),
        on(Randread, 32, Start::Warm),
        on(Randread, 1, Start::Cold),
        on(Randread, 1, Start::Warm),
        on(Randwrite, 32, Start::Cold),
        on(Randwrite, 32, Start::Steady),
        on(Randwrite, 1, Start::Rested),
        mix(),
        bytes_written(),
    ]
}

/// Mostly reads, and few blocks often, as programs use a disk.
pub(crate) fn mix() -> Workload {
    let mix = Workload::new(Randrw, KIB_4, 32).with_distribution(Distribution::Zipf);
    mix.starting(Start::Cold).long()
}

/// Random writes during which several checkpoints run.
pub(crate) fn bytes_written() -> Workload {
    Workload::new(Randwrite, KIB_4, 32).starting(Start::Cold).long()
}

/// Writes that are made durable one by one.
pub(crate) fn flushes() -> [Workload; 3] {
    [1, 8, 32].map(|depth| Workload::new(Randwrite, KIB_4, depth).with_flushes(1))
}

/// Writes with flushes as a database has them.
pub(crate) fn database() -> Workload {
    Workload::new(Randwrite, 2 * KIB_4, 8).with_flushes(16).long()
}

/// The subjects in the order of `round`: the first one changes from round to round.
pub(crate) fn turns(subjects: &[Subject], round: u32) -> impl Iterator<Item = Subject> {
    let first = round as usize % subjects.len().max(1);
    subjects[first..].iter().chain(&subjects[..first]).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Filter {
        Filter {
            storage: vec![],
            subject: vec![],
            rw: vec![],
            block_size: vec![],
            depth: vec![],
            queues: vec![],
        }
    }

    #[test]
    fn full_has_what_issue_7_names() {
        let cells = Extent::Full.cells(Storage::Ext4, &everything());
        let has = |workload: Workload| cells.iter().any(|(cell, _)| cell.workload == workload);
        for pattern in [Randread, Randwrite, Randrw] {
            assert!(DEPTHS.iter().all(|depth| has(Workload::new(pattern, 4096, *depth))));
        }
        for pattern in [Randread, Randwrite] {
            assert!(has(Workload::new(pattern, 65536, 1)) && has(Workload::new(pattern, 1 << 20, 1)));
            assert!([2, 4].iter().all(|queues| has(Workload::new(pattern, 4096, 32).with_queues(*queues))));
        }
    }

    #[test]
    fn no_cell_is_measured_twice() {
        for extent in [Extent::Full, Extent::Quick, Extent::RealSize] {
            for storage in Storage::ALL {
                let mut cells: Vec<_> =
                    extent.cells(storage, &everything()).into_iter().map(|(cell, _)| cell).collect();
                let all = cells.len();
                cells.sort();
                cells.dedup();
                assert_eq!(cells.len(), all);
            }
        }
    }

    #[test]
    fn full_and_quick_have_what_issue_16_names() {
        for extent in [Extent::Full, Extent::Quick, Extent::RealSize] {
            let with = |storage, workload| {
                let mut cells = extent.cells(storage, &everything()).into_iter();
                cells.find(|(cell, _)| cell.workload == workload).map(|(_, subjects)| subjects)
            };
            let bounce_pair = vec![Subject::PiCrc64, Subject::Bounce];
            let rested = Workload::new(Randwrite, KIB_4, 1).starting(Start::Rested);
            assert_eq!(with(Storage::Large, rested), Some(bounce_pair.clone()));
            assert_eq!(with(Storage::Ext4, database()), Some(vec![Subject::PiCrc64, Subject::Qemu]));
            for storage in [Storage::Ext4, Storage::Xfs] {
                for workload in flushes() {
                    assert!(with(storage, workload).unwrap().contains(&Subject::Qemu));
                }
            }
            let is_quick = extent == Extent::Quick;
            assert_eq!(with(Storage::Large, mix()), (!is_quick).then_some(bounce_pair));
            for storage in [Storage::Ext4, Storage::Large] {
                let alone = (!is_quick).then_some(vec![Subject::PiCrc64]);
                assert_eq!(with(storage, bytes_written()), alone);
            }
        }
    }

    #[test]
    fn filters_leave_cells_out() {
        let filter = Filter { depth: vec![32], subject: vec![Subject::Fio, Subject::Qemu], ..everything() };
        for (cell, subjects) in Extent::Full.cells(Storage::Ext4, &filter) {
            // fio has no cell with flushes
            let with_fio = cell.workload.flush_every == 0;
            let expected = [Subject::Qemu, Subject::Fio].into_iter().take(1 + usize::from(with_fio));
            assert_eq!((cell.workload.depth, subjects), (32, expected.collect()));
        }
        let only_fio = Filter { subject: vec![Subject::Fio], ..everything() };
        assert!(Extent::Full.cells(Storage::Null, &only_fio).is_empty());
    }

    #[test]
    fn each_subject_has_one_turn_a_round_and_is_first_once() {
        let subjects = [Subject::PiCrc64, Subject::Qemu, Subject::Fio];
        let firsts: Vec<_> = (0..3).map(|round| turns(&subjects, round).next().unwrap()).collect();
        assert_eq!(firsts, subjects);
        let mut round: Vec<_> = turns(&subjects, 2).collect();
        round.sort();
        assert_eq!(round, subjects);
    }
}
