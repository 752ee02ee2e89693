//! The cpio format that the kernel unpacks as its initramfs.

use std::fmt::Write as _;

/// An archive under construction. Layout: "Initramfs buffer format" in the kernel's documentation.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;

impl Archive {
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[]);
    }

    pub(crate) fn executable(&mut self, path: &str, contents: &[u8]) {
        self.entry(path, EXECUTABLE, contents);
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, contents: &[u8]) {
        self.entries += 1;
        // inode, mode, uid, gid, links, time, size, device and node (major, minor each), length of
        // the name, checksum
        let (size, name_len) = (contents.len(), name.len() + 1);
        let mut header = String::from("070701");
        for field in [self.entries, mode, 0, 0, 1, 0].map(|field| field as usize) {
            write!(header, "{field:08x}").expect("a String takes all");
        }
        for field in [size, 0, 0, 0, 0, name_len, 0] {
            write!(header, "{field:08x}").expect("a String takes all");
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
