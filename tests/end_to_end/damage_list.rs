//! The damage list: each block that fails verification is in it, over restarts, until it is
//! written.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use integrity::Guard;
use integrity::sidecar::{SECTOR_SIZE, SUPERBLOCK_SIZE};
use serde_json::{Value, json};
use virtio::request_type::DISCARD;
use virtio::testing::range;

use crate::harness::{IOERR, Image, OK, Request, Setup, Vm, finish, pattern, wait_until};
use crate::sidecar_bytes::{forge_tuple, superblock};

const BLOCK: usize = 4096;
const SECTORS: u64 = 8;
const BLOCKS: u64 = 64;

/// An image of which [`BLOCKS`] blocks were written.
fn written_image() -> Image {
    let mut vm = Setup::disk(4 << 20).start();
    vm.queue.write(0, &pattern(1, usize::try_from(BLOCKS).unwrap() * BLOCK));
    drop(vm.frontend);
    vm.backend.stop();
    vm.image
}

/// The blocks of a report, each with its check.
fn listed(report: &Value) -> Vec<(u64, String)> {
    let ranges = report["ranges"].as_array().unwrap().iter();
    let blocks = ranges.flat_map(|range| {
        let (first, last) = (range["first_lba"].as_u64().unwrap(), range["last_lba"].as_u64().unwrap());
        (first..=last).map(|lba| (lba, range["check"].as_str().unwrap().to_owned()))
    });
    let blocks: Vec<_> = blocks.collect();
    assert_eq!(report["blocks"], blocks.len(), "{report}");
    blocks
}

fn lbas(report: &Value) -> Vec<u64> {
    listed(report).into_iter().map(|(lba, _)| lba).collect()
}

fn discard(vm: &mut Vm<&Image>, sector: u64, count: u32) {
    let bytes = range(sector, count, 0);
    let buffer = vm.memory.allocate(bytes.len());
    vm.memory.write(buffer, &bytes);
    let request = Request::zeroing(DISCARD, buffer, u32::try_from(bytes.len()).unwrap());
    assert_eq!(vm.queue.execute(&request).status, OK);
}

/// Damage of five kinds, in blocks 3 to 7 and 100.
fn damage(image: &Image) -> Vec<(u64, String)> {
    (3..6).for_each(|block| image.flip_bit(block * 4096 + 7));
    let sidecar = image.sidecar_path();
    forge_tuple(&sidecar, 6, |tuple| tuple[9] ^= 2);
    forge_tuple(&sidecar, 7, |tuple| tuple[15] ^= 1);
    image.flip_bit(100 * 4096);
    let expected = [
        (3, "guard_tag"),
        (4, "guard_tag"),
        (5, "guard_tag"),
        (6, "application_tag"),
        (7, "reference_tag"),
        (100, "unwritten_not_zero"),
    ];
    expected.map(|(lba, check)| (lba, check.to_owned())).to_vec()
}

#[test]
fn each_block_that_a_guest_finds_is_listed_until_it_is_written() {
    let image = written_image();
    let expected = damage(&image);
    let mut vm = Setup::of(&image).start();
    assert_eq!(
        vm.backend.ask(&["damage"]),
        json!({"blocks": 0, "unlisted": 0, "block_size": 4096, "ranges": []})
    );
    // five blocks by one request, and one by a write of a part of it
    assert_eq!(vm.queue.try_read(2 * SECTORS, 10 * BLOCK).0.status, IOERR);
    assert_eq!(vm.queue.try_write(100 * SECTORS + 1, &pattern(2, 512)).status, IOERR);
    let report = vm.backend.ask(&["damage"]);
    assert_eq!(listed(&report), expected);
    let tag = &report["ranges"][3];
    assert_eq!((&tag["expected"], &tag["actual"]), (&json!("5342"), &json!("5340")));
    assert_eq!(tag["found_by"], json!(["guest"]));
    assert_eq!(vm.backend.ask(&["status"])["damage"], json!({"blocks": 6, "unlisted": 0}));
    let shown = vm.backend.ctl(&["damage"]).stdout;
    assert!(
        shown.contains("LBA 6 (byte 24576): application tag error, expected 5342, actual 5340"),
        "{shown}"
    );
    assert!(vm.backend.ctl(&["status"]).stdout.contains("damage: 6 blocks"));

    // a restart keeps the list, and the first time that a block was seen
    drop(vm.frontend);
    vm.backend.stop();
    let kept = image.json("info")["damage"].clone();
    assert_eq!(kept, report);
    assert_eq!(image.check(&[]).0["damage"], report);
    let shown = finish(&mut image.command("info")).stdout;
    assert!(shown.contains("LBA 100 (byte 409600): unwritten block not zero"), "{shown}");

    let mut vm = Setup::of(&image).start();
    vm.backend.log().wait_for("6 blocks are in the damage list");
    assert_eq!(vm.queue.try_read(3 * SECTORS, BLOCK).0.status, IOERR);
    let again = vm.backend.ask(&["damage"]);
    assert_eq!(again["ranges"][0]["first_seen"], report["ranges"][0]["first_seen"]);
    vm.queue.write(4 * SECTORS, &pattern(3, BLOCK));
    vm.queue.write(6 * SECTORS, &pattern(4, 2 * BLOCK));
    discard(&mut vm, 100 * SECTORS, 8);
    assert_eq!(lbas(&vm.backend.ask(&["damage"])), [3, 5]);
    drop(vm.frontend);
    vm.backend.stop();
    assert_eq!(lbas(&image.json("info")["damage"]), [3, 5]);
    assert_eq!(image.bad_blocks().len(), 2);
    image.flip_bit(3 * 4096 + 7);
    let picture = image.directory().join("map.svg");
    assert_eq!(finish(image.command("check").arg("--svg").arg(&picture)).code, Some(1));
    let map = std::fs::read_to_string(picture).unwrap();
    for part in [
        "LBA 2-2: written, matches",
        "LBA 3-3: in the damage list",
        "LBA 5-5: does not match",
        "LBA 900-900: not written",
    ] {
        assert!(map.contains(part), "{part}: {map}");
    }
}

#[test]
fn a_process_that_is_killed_leaves_the_list() {
    let image = written_image();
    image.flip_bit(5 * 4096);
    let mut vm = Setup::of(&image).start();
    assert_eq!(vm.queue.try_read(5 * SECTORS, BLOCK).0.status, IOERR);
    let is_kept = || lbas(&image.json("info")["damage"]) == [5];
    wait_until(is_kept, || image.json("info").to_string());
    vm.backend.kill();
    let vm = Setup::of(&image).start();
    assert_eq!(lbas(&vm.backend.ask(&["damage"])), [5]);
}

/// Blocks that go back as they came, beside one that is written, are still damaged.
#[test]
fn a_write_beside_a_damaged_block_does_not_clear_it() {
    let image = Image::create_with(1 << 20, &["--interval", "512"]);
    let mut vm = Setup::of(&image).start();
    vm.queue.write(0, &pattern(1, 16 * 512));
    drop(vm.frontend);
    vm.backend.stop();
    image.flip_bit(3 * 512);
    let mut vm = Setup::of(&image).start();
    assert_eq!(vm.queue.try_read(3, 512).0.status, IOERR);
    vm.queue.write(4, &pattern(2, 512));
    assert_eq!(lbas(&vm.backend.ask(&["damage"])), [3]);
    vm.queue.write(3, &pattern(2, 512));
    assert_eq!(lbas(&vm.backend.ask(&["damage"])), Vec::<u64>::new());
}

#[test]
fn more_damage_than_there_is_room_for_is_counted() {
    let image = Image::create(16 << 20);
    let file = OpenOptions::new().write(true).open(image.path()).unwrap();
    // every other block of the image, none of which was written
    (0..2048).for_each(|block| file.write_all_at(&[1], block * 8192).unwrap());
    let mut vm = Setup::of(&image).start();
    assert_eq!(vm.queue.try_read(0, 16 << 20).0.status, IOERR);
    let damage = |vm: &Vm<&Image>| vm.backend.ask(&["status"])["damage"].clone();
    for start in 0..16 {
        assert_eq!(vm.queue.try_read(start << 11, 1 << 20).0.status, IOERR);
    }
    assert_eq!(damage(&vm)["blocks"], 1080);
    assert!(damage(&vm)["unlisted"].as_u64().unwrap() >= 2048 - 1080, "{}", damage(&vm));
    drop(vm.frontend);
    vm.backend.stop();
    assert_eq!(image.json("info")["damage"]["blocks"], 1080);
}

/// A list that was made up, or torn, costs its entries and nothing else.
#[test]
fn bytes_that_are_no_list_are_left_out() {
    let image = written_image();
    image.flip_bit(5 * 4096);
    let mut vm = Setup::of(&image).start();
    assert_eq!(vm.queue.try_read(5 * SECTORS, BLOCK).0.status, IOERR);
    drop(vm.frontend);
    vm.backend.stop();
    let area = superblock(&image.sidecar_path()).layout().damage_area().unwrap();
    let file = OpenOptions::new().read(true).write(true).open(image.sidecar_path()).unwrap();
    let mut good = [0; SECTOR_SIZE];
    file.read_exact_at(&mut good, area.start + 4096).unwrap();
    let sealed = |change: &dyn Fn(&mut [u8])| {
        let mut sector = good;
        change(&mut sector);
        let crc = Guard::Crc64Nvme.compute(&sector[..504]);
        sector[504..].copy_from_slice(&crc.to_be_bytes());
        sector
    };
    let forged = [
        // not sealed again
        {
            let mut torn = good;
            torn[60] ^= 1;
            torn
        },
        // a block behind the image; all blocks there can be; a check, a time and a count from
        // nowhere
        sealed(&|sector| sector[40..48].fill(0xff)),
        sealed(&|sector| sector[48..52].fill(0xff)),
        sealed(&|sector| sector[52] = 200),
        sealed(&|sector| sector[24..28].fill(0xff)),
        [0xff; SECTOR_SIZE],
    ];
    for (index, sector) in (0..).zip(&forged) {
        file.write_all_at(sector, area.start + 4096 + index * 512).unwrap();
    }
    file.write_all_at(&pattern(1, 4096), area.start).unwrap();
    // one more is good, and says what it likes
    let other = sealed(&|sector| sector[72..88].fill(0xff));
    file.write_all_at(&other, area.start + 8192).unwrap();
    let mut vm = Setup::of(&image).start();
    vm.backend.log().wait_for("sectors of the damage list are damaged");
    let report = vm.backend.ask(&["damage"]);
    assert_eq!((lbas(&report), &report["ranges"][0]["last_seen"]), (vec![5], &json!(u64::MAX)));
    assert!(vm.backend.ctl(&["damage"]).stdout.contains("last at second 18446744073709551615"));
    vm.queue.write(5 * SECTORS, &pattern(2, BLOCK));
    let log = vm.stop_clean();
    assert!(!log.contains("ERROR"), "{log}");
    assert_eq!(image.json("info")["damage"]["blocks"], 0);
}

/// A sidecar whose dirty map leaves no room keeps the list in memory.
#[test]
fn a_sidecar_without_room_is_served() {
    let image = Image::create(4 << 20);
    let file = OpenOptions::new().read(true).write(true).open(image.sidecar_path()).unwrap();
    for copy in [0, SUPERBLOCK_SIZE] {
        let mut sector = [0; SECTOR_SIZE];
        file.read_exact_at(&mut sector, copy).unwrap();
        sector[72..80].copy_from_slice(&4096_u64.to_be_bytes());
        let crc = Guard::Crc64Nvme.compute(&sector[..504]);
        sector[504..].copy_from_slice(&crc.to_be_bytes());
        file.write_all_at(&sector, copy).unwrap();
    }
    assert_eq!(superblock(&image.sidecar_path()).layout().damage_area(), None);
    image.flip_bit(9 * 4096);
    let mut vm = Setup::of(&image).start();
    vm.queue.write(0, &pattern(1, BLOCK));
    assert_eq!(vm.queue.try_read(9 * SECTORS, BLOCK).0.status, IOERR);
    assert_eq!(lbas(&vm.backend.ask(&["damage"])), [9]);
    drop(vm.frontend);
    vm.backend.stop();
    assert_eq!(image.json("info")["damage"]["blocks"], 0);
    assert_eq!(image.bad_blocks().len(), 1);
}
