//! Limits by a clock of the tests' own.

use super::*;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1 << 40;

fn read(bytes: u64) -> Demand {
    Demand { kind: DemandKind::Read, bytes }
}

/// Lets queues that always have chains pop for `seconds`. Returns how many each has popped.
fn run<const QUEUES: usize>(limiter: &Limiter, demands: [Demand; QUEUES], seconds: u64) -> [u64; QUEUES] {
    let (mut popped, mut asks_at, mut now) = ([0; QUEUES], [START; QUEUES], START);
    while now < START + seconds * SECOND {
        let (queue, at) = asks_at.into_iter().enumerate().min_by_key(|(_, at)| *at).unwrap();
        now = at;
        // a turn of a worker
        for _ in 0..16 {
            if let Err(until) = limiter.may_pop(queue, now) {
                assert!(until > now);
                asks_at[queue] = until;
                break;
            }
            limiter.pay(queue, demands[queue], now);
            limiter.pay_for_kind(demands[queue], now);
            popped[queue] += 1;
            asks_at[queue] = now;
        }
    }
    popped
}

fn limiter(queues: usize, limits: Limits) -> Limiter {
    let limiter = Limiter::none(queues);
    limiter.set(Some(limits));
    limiter
}

#[test]
fn a_rate_is_kept_whatever_the_number_of_queues() {
    for rate in [1, 10, 1000, 100_000] {
        let limits = Limits { iops: rate, burst_ms: 1, ..Limits::default() };
        let one: u64 = run(&limiter(1, limits), [read(4096)], 4).iter().sum();
        let four: u64 = run(&limiter(4, limits), [read(4096); 4], 4).iter().sum();
        for popped in [one, four] {
            assert!(popped.abs_diff(4 * rate) <= rate / 100 + 16, "{popped} of {} requests", 4 * rate);
        }
    }
}

#[test]
fn queues_are_served_for_the_same_cost() {
    let limits = Limits { bps: 10 << 20, burst_ms: 10, ..Limits::default() };
    let demands = [read(1 << 20), read(4096), read(65536)];
    let popped = run(&limiter(3, limits), demands, 30);
    let bytes: Vec<_> = popped.iter().zip(demands).map(|(count, demand)| count * demand.bytes).collect();
    let fair = (10 << 20) * 30 / 3;
    for bytes in &bytes {
        assert!(bytes.abs_diff(fair) < fair / 10, "{bytes:?}, not {fair} each");
    }
}

#[test]
fn a_queue_that_wants_nothing_saves_nothing_and_delays_no_other() {
    let limits = Limits { iops: 100, burst_ms: 1, ..Limits::default() };
    let limiter = limiter(2, limits);
    let alone = run(&limiter, [read(512)], 10);
    assert!(alone[0].abs_diff(1000) <= 16, "{alone:?}");
    // queue 1 begins ten seconds later
    let mut turns = limiter.turns();
    turns.ask(1, START + 10 * SECOND);
    let (first, second) = (turns.served_of(0), turns.served_of(1));
    assert!(first > 9 * SECOND && first.abs_diff(second) <= SECOND / 50, "{first} {second}");
}

#[test]
fn kinds_have_limits_of_their_own() {
    let limiter = limiter(1, Limits { write_iops: 10, burst_ms: 1, ..Limits::default() });
    let write = Demand { kind: DemandKind::Write, bytes: 512 };
    for now in [START, START + 1] {
        assert_eq!(limiter.may_pop(0, now), Ok(()));
    }
    assert_eq!(limiter.may_start(DemandKind::Write, START), Ok(()));
    limiter.pay_for_kind(write, START);
    assert_eq!(limiter.may_start(DemandKind::Write, START + 2_000_000), Err(START + 99_000_000));
    assert_eq!(limiter.may_start(DemandKind::Read, START), Ok(()));
    assert_eq!(limiter.may_start(DemandKind::Other, START), Ok(()));
}

#[test]
fn disks_of_a_group_share_its_limits() {
    crate::guest::sigbus::catch().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("group");
    let [one, two] = [(); 2].map(|()| Limiter::of_group(1, &path).unwrap());
    assert!(!one.is_on());
    two.set(Some(Limits { iops: 7, ..Limits::default() }));
    assert_eq!(one.limits().unwrap().iops, 7);
    one.pay(0, read(512), START);
    two.pay(0, read(512), START);
    assert!(two.may_pop(0, START).is_err());
    // a disk keeps the limits that it was given when the file is lost
    std::fs::File::create(&path).unwrap();
    assert_eq!(two.limits().map(|limits| limits.iops), Some(7));
    assert!(!one.is_on());
    assert!(two.group_loss().is_some());
}

#[test]
fn another_file_is_no_group() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes");
    for content in [vec![b'x'; 4096], b"my notes".to_vec()] {
        std::fs::write(&path, &content).unwrap();
        assert!(matches!(Limiter::of_group(1, &path), Err(LimitGroupError::OtherFile(_))));
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
}
