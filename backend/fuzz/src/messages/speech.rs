//! The next message of a front-end.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;

use stableblk::inbox::Inbox;
use stableblk::session::Notice;

use super::frontend::{Frontend, MEMORY_SIZE, RING_SIZE, USER_ADDRESS, read_replies};
use crate::input::Input;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_LOG_BASE: u32 = 6;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const SET_BACKEND_REQ_FD: u32 = 21;
const GET_CONFIG: u32 = 24;
const SET_CONFIG: u32 = 25;
const GET_INFLIGHT_FD: u32 = 31;
const SET_INFLIGHT_FD: u32 = 32;
const ADD_MEM_REG: u32 = 37;
const REM_MEM_REG: u32 = 38;
const SET_STATUS: u32 = 39;
/// One past the last that the protocol has.
const REQUESTS: u32 = 46;

const VERSION: u32 = 1;
const NEED_REPLY: u32 = 8;
/// `MQ`, `LOG_SHMFD`, `REPLY_ACK`, `BACKEND_REQ`, `CONFIG`, `INFLIGHT_SHMFD`, `RESET_DEVICE`,
/// `CONFIGURE_MEM_SLOTS`, `STATUS`.
const PROTOCOL_FEATURES: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 16;
/// `EVENT_IDX`, `VHOST_USER_F_PROTOCOL_FEATURES`, `VERSION_1`.
const FEATURES: u64 = 1 << 29 | 1 << 30 | 1 << 32;

/// One step of the front-end or its driver. False when the session has ended.
pub(super) fn step(
    frontend: &mut Frontend,
    stream: &UnixStream,
    inbox: &Inbox<Notice>,
    input: &mut Input<'_>,
) -> bool {
    match input.u8() % 16 {
        0 => return set_up(frontend, stream, input.u8().into()),
        1 => {
            let (queue, kind) = (usize::from(input.u8()), input.choose([0, 1, 4, 8, 11, 13]));
            let (sector, len) = (u64::from(input.u8()), input.choose([512, 4096, 16384, 65536]));
            frontend.request(queue, kind, sector, len);
            if sector % 2 == 0 {
                frontend.wait_for_interrupt();
            }
        }
        2 if input.u8() < 32 => frontend.scribble(input.u16().into(), input.u64()),
        // a driver's first steps with a queue that was set up
        3 => {
            let queue = usize::from(input.u8());
            if !set_up(frontend, stream, queue) {
                return false;
            }
            (0..input.u8() % 8).for_each(|at| frontend.request(queue, u32::from(at % 2), at.into(), 4096));
            frontend.wait_for_interrupt();
        }
        4 => {
            let changed = input.u64().is_multiple_of(2);
            inbox.post(Notice::while_stopped(move || changed));
        }
        // bytes that need not be a message
        5 if input.u8() < 16 => {
            let (bytes, count) = (input.bytes::<24>(), usize::from(input.u8() % 24));
            return frontend.send(stream, &bytes[..count], &[]);
        }
        _ => return say(frontend, stream, input),
    }
    true
}

/// A message that is well-formed, mostly.
fn say(frontend: &mut Frontend, stream: &UnixStream, input: &mut Input<'_>) -> bool {
    let request = match input.u8() {
        code @ 0..192 => u32::from(code) % REQUESTS,
        192..250 => input.choose([SET_VRING_ADDR, SET_VRING_KICK, ADD_MEM_REG, REM_MEM_REG, SET_MEM_TABLE]),
        250.. => u32::from_le_bytes(input.bytes()),
    };
    let shape = input.u8();
    let mut flags = VERSION;
    if shape & 7 != 0 {
        flags |= NEED_REPLY;
    }
    let (mut body, wants_files) = body(frontend, request, input);
    if shape & 0x70 == 0x70 {
        body.resize(usize::from(input.u16() % 4200), 0);
    }
    let files = if shape & 0x88 == 0x88 { usize::from(input.u8()) % 254 } else { wants_files };
    let files: Vec<u8> = (0..files).map(|at| if at < 4 { input.u8() } else { 2 }).collect();
    let files = pick(frontend, request, &files);
    let mut bytes = message(request, flags, &body);
    if input.u8() == 255 {
        // in a header that is not true
        let at = usize::from(input.u8() % 12);
        bytes[at] ^= input.u8();
    }
    let files: Vec<_> = files.iter().map(|fd| fd.try_clone_to_owned().expect("a descriptor")).collect();
    let files: Vec<_> = files.iter().map(std::os::fd::AsFd::as_fd).collect();
    let split = usize::from(input.u8());
    let sent = if split < bytes.len() && split > 0 {
        frontend.send(stream, &bytes[..split], &files) && frontend.send(stream, &bytes[split..], &[])
    } else {
        frontend.send(stream, &bytes, &files)
    };
    read_replies(stream);
    sent
}

/// The body of a request of this type, and the number of its descriptors.
fn body(frontend: &Frontend, request: u32, input: &mut Input<'_>) -> (Vec<u8>, usize) {
    match request {
        SET_FEATURES => {
            (u64s(&[input.choose([FEATURES, FEATURES, 0, 1 << 30, FEATURES | 1 << 26]) | rare(input)]), 0)
        }
        SET_PROTOCOL_FEATURES => {
            (u64s(&[input.choose([PROTOCOL_FEATURES, PROTOCOL_FEATURES, 0]) | rare(input)]), 0)
        }
        SET_STATUS => (u64s(&[input.choose([0, 1, 15, 0x100, u64::MAX])]), 0),
        SET_MEM_TABLE => {
            let count = input.u8() % 5;
            let mut body = u32s(&[count.into(), 0]);
            (0..count).for_each(|_| body.extend(u64s(&region(input))));
            (body, count.into())
        }
        SET_LOG_BASE => (u64s(&[input.choose([4096, 1, 1 << 40]), rare(input)]), 1),
        SET_VRING_NUM => {
            (u32s(&[queue(input), input.choose([RING_SIZE.into(), 0, 3, 256, 512, u32::MAX])]), 0)
        }
        SET_VRING_BASE => (u32s(&[queue(input), input.choose([0, 0xffff, 0x1_0000, u32::MAX])]), 0),
        SET_VRING_ADDR => {
            let (index, flags) = (queue(input), input.choose([0, 0, 0, 1, 2]));
            let [descriptor, used, available] = frontend.ring_addresses(input.u8().into());
            let mut body = u32s(&[index, flags]);
            body.extend(u64s(&[
                descriptor ^ rare(input),
                used ^ rare(input),
                available ^ rare(input),
                rare(input),
            ]));
            (body, 0)
        }
        GET_VRING_BASE => (u32s(&[queue(input), 0]), 0),
        SET_VRING_ENABLE => (u32s(&[queue(input), input.choose([1, 1, 0, 2])]), 0),
        SET_VRING_KICK | SET_VRING_CALL | SET_VRING_ERR => {
            let no_file = input.u8().is_multiple_of(8);
            (u64s(&[u64::from(queue(input)) | u64::from(no_file) << 8]), usize::from(!no_file))
        }
        GET_CONFIG | SET_CONFIG => {
            let (offset, size) = (input.choose([0, 32, 59, 60, u32::MAX]), input.choose([1, 1, 8, 60, 256]));
            let mut body = u32s(&[offset, size, input.choose([0, 0, 1, 7])]);
            body.resize(body.len() + size as usize, input.u8());
            (body, 0)
        }
        ADD_MEM_REG | REM_MEM_REG => {
            let mut body = u64s(&[0]);
            body.extend(u64s(&region(input)));
            (body, usize::from(request == ADD_MEM_REG))
        }
        GET_INFLIGHT_FD | SET_INFLIGHT_FD => {
            let mut body = u64s(&[input.choose([0, 4096, MEMORY_SIZE, u64::MAX]), rare(input)]);
            body.extend(
                [input.choose([3u16, 0, 64]), input.choose([RING_SIZE, 0, 256])]
                    .map(u16::to_ne_bytes)
                    .concat(),
            );
            body.extend([0; 4]);
            (body, usize::from(request == SET_INFLIGHT_FD))
        }
        SET_BACKEND_REQ_FD => (Vec::new(), 1),
        _ => (vec![input.u8(); input.choose([0, 0, 8, 16, 100])], 0),
    }
}

/// The right kind of descriptor for the request, mostly.
fn pick<'f>(frontend: &'f Frontend, request: u32, choices: &[u8]) -> Vec<BorrowedFd<'f>> {
    let right = |choice: u8| match request {
        SET_VRING_KICK => frontend.kick_fd(choice.into()),
        SET_MEM_TABLE | ADD_MEM_REG | SET_LOG_BASE | SET_INFLIGHT_FD => frontend.memory_file(),
        SET_BACKEND_REQ_FD => frontend.channel_fd(),
        _ => frontend.call_fd(),
    };
    choices.iter().map(|&choice| if choice < 224 { right(choice) } else { frontend.file(choice) }).collect()
}

/// Guest address, size, front-end address and offset in the file.
fn region(input: &mut Input<'_>) -> [u64; 4] {
    let start = input.choose([0, 0, 0, 4096, MEMORY_SIZE, 1 << 40]);
    let size = input.choose([MEMORY_SIZE, MEMORY_SIZE, 65536, 4096, 1 << 39, 0]);
    let offset = input.choose([0, 0, 0, 4096]);
    [start ^ rare(input), size ^ rare(input), (USER_ADDRESS + start) ^ rare(input), offset ^ rare(input)]
}

fn queue(input: &mut Input<'_>) -> u32 {
    input.choose([0, 0, 1, 1, 2, 2, 3, 255, u32::MAX])
}

/// Zero, mostly.
fn rare(input: &mut Input<'_>) -> u64 {
    if input.u8() < 240 { 0 } else { input.u64() }
}

/// Everything that a queue needs to run, as a front-end in order says it.
fn set_up(frontend: &mut Frontend, stream: &UnixStream, queue: usize) -> bool {
    let index = u32::try_from(queue % super::QUEUES).expect("a small number");
    let [descriptor, used, available] = frontend.ring_addresses(queue);
    let mut addresses = u32s(&[index, 0]);
    addresses.extend(u64s(&[descriptor, used, available, 0]));
    let mut table = u32s(&[1, 0]);
    table.extend(u64s(&[0, MEMORY_SIZE, USER_ADDRESS, 0]));
    let messages = [
        (SET_OWNER, Vec::new()),
        (GET_FEATURES, Vec::new()),
        (SET_FEATURES, u64s(&[FEATURES])),
        (SET_PROTOCOL_FEATURES, u64s(&[PROTOCOL_FEATURES])),
        (SET_MEM_TABLE, table),
        (SET_VRING_NUM, u32s(&[index, RING_SIZE.into()])),
        (SET_VRING_BASE, u32s(&[index, frontend.available_index(queue).into()])),
        (SET_VRING_ADDR, addresses),
        (SET_VRING_CALL, u64s(&[index.into()])),
        (SET_VRING_KICK, u64s(&[index.into()])),
        (SET_VRING_ENABLE, u32s(&[index, 1])),
    ];
    messages.into_iter().all(|(request, body)| {
        let file = match request {
            SET_MEM_TABLE => Some(frontend.memory_file()),
            SET_VRING_KICK => Some(frontend.kick_fd(queue)),
            SET_VRING_CALL => Some(frontend.call_fd()),
            _ => None,
        };
        let file = file.map(|fd| fd.try_clone_to_owned().expect("a descriptor"));
        let files: Vec<_> = file.iter().map(std::os::fd::AsFd::as_fd).collect();
        let sent = frontend.send(stream, &message(request, VERSION | NEED_REPLY, &body), &files);
        read_replies(stream);
        sent
    })
}

fn message(request: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).expect("a short body");
    [u32s(&[request, flags, size]), body.to_vec()].concat()
}

fn u32s(words: &[u32]) -> Vec<u8> {
    words.iter().copied().flat_map(u32::to_ne_bytes).collect()
}

fn u64s(words: &[u64]) -> Vec<u8> {
    words.iter().copied().flat_map(u64::to_ne_bytes).collect()
}
