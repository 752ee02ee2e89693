//! Requests that name the same guest page several times, as Windows does with its dummy page (spdk#3485, vitastor#35).
//!
//! A read must verify before it scatters, and scatter in descriptor order: the last segment's data stays.

use crate::harness::{Backend, Completion, Frontend, GuestMemory, Image, NOT_WRITTEN, OK, Request, pattern};

const PAGE: usize = 4096;

#[test]
fn a_read_into_one_page() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    let data = pattern(1, 16 * PAGE);
    queue.write(0, &data);
    let page = memory.allocate(PAGE);
    for segments in [2, 4, 16] {
        let completion = queue.execute(&Request::read(0, &vec![(page, 4096); segments]));
        assert_eq!((completion.status, completion.used_len as usize), (OK, segments * PAGE + 1));
        assert!(memory.read(page, PAGE) == data[(segments - 1) * PAGE..segments * PAGE]);
    }
}

/// Only the blocks in the middle were asked for; those before and after go to the dummy page.
#[test]
fn a_read_with_a_dummy_page_at_both_ends() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    let data = pattern(2, 8 * PAGE);
    queue.write(0, &data);
    let (dummy, wanted) = (memory.allocate(PAGE), memory.allocate(2 * PAGE));
    let mut segments = vec![(dummy, 4096); 3];
    segments.push((wanted, 8192));
    segments.extend([(dummy, 4096), (dummy + 512, 3584), (dummy + 7, 512)]);
    let completion = queue.execute(&Request::read(0, &segments));
    assert_eq!((completion.status, completion.used_len as usize), (OK, 7 * PAGE + 1));
    assert!(memory.read(wanted, 2 * PAGE) == data[3 * PAGE..5 * PAGE]);
    let mut expected = data[5 * PAGE..6 * PAGE].to_vec();
    expected[512..].copy_from_slice(&data[6 * PAGE..6 * PAGE + 3584]);
    expected[7..7 + 512].copy_from_slice(&data[6 * PAGE + 3584..7 * PAGE]);
    assert!(memory.read(dummy, PAGE) == expected);
}

/// Longer than a bounce folio: the transfers come back in any order, the segments are filled in theirs.
#[test]
fn a_read_longer_than_a_folio_into_one_buffer() {
    const SEGMENT: usize = 64 << 10;
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    // the last transfer meets a hole, which costs no I/O, and so is the first to come back
    queue.write(0, &pattern(3, 16 * SEGMENT));
    let buffer = memory.allocate(SEGMENT);
    for round in 0..50 {
        memory.write(buffer, &vec![NOT_WRITTEN; SEGMENT]);
        let completion = queue.execute(&Request::read(0, &[(buffer, 64 << 10); 17]));
        assert_eq!((completion.status, completion.used_len as usize), (OK, 17 * SEGMENT + 1));
        let is_last = memory.read(buffer, SEGMENT).iter().all(|&byte| byte == 0);
        assert!(is_last, "round {round}: the buffer does not hold the last segment");
    }
}

#[test]
fn a_write_from_one_page() {
    let image = Image::create(16 << 20);
    let backend = Backend::serve(&image, &[]);
    let memory = GuestMemory::new();
    let mut frontend = Frontend::connect(&backend, &memory);
    let mut queue = frontend.queue(0);
    let (data, page) = (pattern(4, PAGE), memory.allocate(PAGE));
    memory.write(page, &data);
    let completion = queue.execute(&Request::write(8, &[(page, 4096); 5]));
    assert_eq!(completion, Completion { status: OK, used_len: 1, ..completion });
    assert!(queue.read(8, 5 * PAGE) == data.repeat(5));
    drop(frontend);
    backend.stop();
    image.assert_clean();
}
