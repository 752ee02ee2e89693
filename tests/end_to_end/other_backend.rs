//! The front-end of these tests serves other back-ends than ours: each basic case runs on two
//! subjects, the program and a daemon made of `vhost-user-backend` and `virtio-queue`. So the
//! front-end is not made to measure for us.

use virtio::request_type;

use crate::harness::{
    Backend, Frontend, IOERR, Image, NOT_WRITTEN, OK, OtherDaemon, Queue, Request, UNSUPP, pattern,
};

const SIZE: usize = 4 << 20;
const SECTORS: u64 = (SIZE / 512) as u64;
const ID: &str = "disk-0001";

/// Runs `case` on each subject. It gets a function that connects a front-end.
fn on_both(case: impl Fn(&dyn Fn() -> Frontend)) {
    let image = Image::create(SIZE as u64);
    let ours = Backend::serve(&image, &["--serial", ID]);
    case(&|| ours.connect());
    ours.stop();
    image.assert_clean();
    let other = OtherDaemon::serve(SIZE, ID);
    case(&|| other.connect());
}

#[test]
fn data_is_read_back() {
    on_both(|connect| {
        let mut frontend = connect();
        let mut queue = frontend.queue(0);
        for (seed, len) in (1..).zip([512, 4096, 7680, 1 << 20]) {
            let data = pattern(seed, len);
            queue.write(seed * 1001, &data);
            assert!(queue.read(seed * 1001, len) == data, "{len} bytes");
        }
        queue.flush();
    });
}

#[test]
fn segments_and_indirect_tables_are_followed() {
    on_both(|connect| {
        let mut frontend = connect();
        let mut queue = frontend.queue(0);
        let (data, memory) = (pattern(1, 8192), frontend.memory.clone());
        let (first, second) = (memory.allocate(4096), memory.allocate(8192));
        memory.write(first, &data[..1000]);
        memory.write(second, &data[1000..]);
        let segments = [(first, 1000), (second, 7192)];
        for submit in [Queue::submit, Queue::submit_indirect] {
            let head = submit(&mut queue, &Request::write(8, &segments));
            assert_eq!(queue.complete(head).status, OK);
            assert!(queue.read(8, 8192) == data);
            let head = submit(&mut queue, &Request::read(8, &segments));
            assert_eq!(queue.complete(head).used_len, 8193);
        }
    });
}

#[test]
fn requests_have_the_status_of_the_specification() {
    on_both(|connect| {
        let mut frontend = connect();
        let mut queue = frontend.queue(0);
        let buffer = frontend.memory.allocate(4096);
        frontend.memory.write(buffer, &[NOT_WRITTEN; 64]);
        let id = queue.execute(&Request::answered(request_type::GET_ID, buffer, 20));
        assert_eq!((id.status, id.used_len), (OK, 21));
        assert_eq!(frontend.memory.read(buffer, 21), b"disk-0001\0\0\0\0\0\0\0\0\0\0\0\xee");
        assert_eq!(queue.try_read(SECTORS, 512).0.status, IOERR);
        assert_eq!(queue.try_write(SECTORS - 1, &pattern(1, 1024)).status, IOERR);
        assert_eq!(queue.execute(&Request::answered(0x8000_0000, buffer, 512)).status, UNSUPP);
    });
}

#[test]
fn configuration_space_has_the_capacity() {
    on_both(|connect| {
        let mut frontend = connect();
        let config = frontend.config(0, 60).unwrap();
        assert_eq!(config[..8], SECTORS.to_le_bytes());
        assert_eq!(frontend.config(4, 8).unwrap(), config[4..12]);
    });
}

#[test]
fn a_front_end_may_leave_and_another_reads_its_data() {
    on_both(|connect| {
        for seed in 0..4 {
            let mut frontend = connect();
            let mut queue = frontend.queue(usize::try_from(seed).unwrap());
            if seed > 0 {
                assert!(queue.read(8 * seed - 8, 4096) == pattern(seed - 1, 4096));
            }
            queue.write(8 * seed, &pattern(seed, 4096));
        }
    });
}

#[test]
fn a_ring_that_was_stopped_restarts_where_it_stood() {
    on_both(|connect| {
        let mut frontend = connect();
        let mut queue = frontend.queue_of_size(0, 8);
        for seed in 0..20 {
            queue.write(8 * seed, &pattern(seed, 4096));
            let base = frontend.stop(&queue);
            assert_eq!(base, queue.driver().used_index());
            frontend.start(&queue, base);
            assert!(queue.read(8 * seed, 4096) == pattern(seed, 4096));
        }
    });
}
