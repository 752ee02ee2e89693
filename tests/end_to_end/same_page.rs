//! Requests that name the same guest page several times, as Windows does with its dummy page
//! (spdk#3485, vitastor#35).
//!
//! A read must verify before it scatters, and scatter in descriptor order: the last segment's data
//! stays.

use crate::harness::{Completion, NOT_WRITTEN, OK, Request, Setup, pattern};

const PAGE: usize = 4096;

#[test]
fn a_read_into_one_page_leaves_the_last_segment() {
    let mut vm = Setup::disk(16 << 20).start();
    let data = pattern(1, 16 * PAGE);
    vm.queue.write(0, &data);
    let page = vm.memory.allocate(PAGE);
    for segments in [2, 4, 16] {
        let completion = vm.queue.execute(&Request::read(0, &vec![(page, 4096); segments]));
        assert_eq!((completion.status, completion.used_len as usize), (OK, segments * PAGE + 1));
        assert!(vm.memory.read(page, PAGE) == data[(segments - 1) * PAGE..segments * PAGE]);
    }
}

/// Only the blocks in the middle were asked for; those before and after go to the dummy page.
#[test]
fn a_read_with_a_dummy_page_at_both_ends_fills_the_wanted_pages() {
    let mut vm = Setup::disk(16 << 20).start();
    let data = pattern(2, 8 * PAGE);
    vm.queue.write(0, &data);
    let (dummy, wanted) = (vm.memory.allocate(PAGE), vm.memory.allocate(2 * PAGE));
    let mut segments = vec![(dummy, 4096); 3];
    segments.push((wanted, 8192));
    segments.extend([(dummy, 4096), (dummy + 512, 3584), (dummy + 7, 512)]);
    let completion = vm.queue.execute(&Request::read(0, &segments));
    assert_eq!((completion.status, completion.used_len as usize), (OK, 7 * PAGE + 1));
    assert!(vm.memory.read(wanted, 2 * PAGE) == data[3 * PAGE..5 * PAGE]);
    let mut expected = data[5 * PAGE..6 * PAGE].to_vec();
    expected[512..].copy_from_slice(&data[6 * PAGE..6 * PAGE + 3584]);
    expected[7..7 + 512].copy_from_slice(&data[6 * PAGE + 3584..7 * PAGE]);
    assert!(vm.memory.read(dummy, PAGE) == expected);
}

/// Longer than a bounce folio: the transfers come back in any order, the segments are filled in
/// theirs.
#[test]
fn a_read_longer_than_a_folio_fills_one_buffer_in_descriptor_order() {
    const SEGMENT: usize = 64 << 10;
    let mut vm = Setup::disk(16 << 20).start();
    // the last transfer meets a hole, which costs no I/O, and so is the first to come back
    vm.queue.write(0, &pattern(3, 16 * SEGMENT));
    let buffer = vm.memory.allocate(SEGMENT);
    for round in 0..50 {
        vm.memory.write(buffer, &vec![NOT_WRITTEN; SEGMENT]);
        let completion = vm.queue.execute(&Request::read(0, &[(buffer, 64 << 10); 17]));
        assert_eq!((completion.status, completion.used_len as usize), (OK, 17 * SEGMENT + 1));
        let is_last = vm.memory.read(buffer, SEGMENT).iter().all(|&byte| byte == 0);
        assert!(is_last, "round {round}: the buffer does not hold the last segment");
    }
}

#[test]
fn a_write_from_one_page_repeats_it() {
    let mut vm = Setup::disk(16 << 20).start();
    let (data, page) = (pattern(4, PAGE), vm.memory.allocate(PAGE));
    vm.memory.write(page, &data);
    let completion = vm.queue.execute(&Request::write(8, &[(page, 4096); 5]));
    assert_eq!(completion, Completion { status: OK, used_len: 1, ..completion });
    assert!(vm.queue.read(8, 5 * PAGE) == data.repeat(5));
    vm.stop_clean();
}
