//! Image formats other than raw, by their magic numbers. A raw image may begin with one of them
//! too, for its guest writes what it likes there: so a format is a reason to ask, never one to
//! refuse for good.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use integrity::sidecar::Superblock;

use crate::storage::reopen::reopen;

/// Bytes at the start, and at the end, that identify a format.
const HEADER_LEN: usize = 512;
const VHD_COOKIE: &[u8] = b"conectix";

/// A format that is not raw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// QEMU's qcow, versions 1 to 3.
    Qcow,
    /// QEMU's older qed.
    Qed,
    /// `VMware`'s vmdk.
    Vmdk,
    /// `VirtualBox`'s vdi.
    Vdi,
    /// Hyper-V's vhdx.
    Vhdx,
    /// Virtual PC's vhd.
    Vhd,
    /// An image encrypted by LUKS.
    Luks,
    /// A sidecar, with the tuples of another image.
    Sidecar,
}

/// Magic numbers, each with the byte where it begins and its format.
const MAGIC: [(usize, &[u8], Format); 9] = [
    (0, b"QFI\xfb", Format::Qcow),
    (0, b"QED\0", Format::Qed),
    (0, b"KDMV", Format::Vmdk),
    (0, b"COWD", Format::Vmdk),
    (0, b"# Disk DescriptorFile", Format::Vmdk),
    (0x40, b"\x7f\x10\xda\xbe", Format::Vdi),
    (0, b"vhdxfile", Format::Vhdx),
    (0, VHD_COOKIE, Format::Vhd),
    (0, b"LUKS\xba\xbe", Format::Luks),
];

impl Format {
    /// The format of `file`, which has `size` bytes; none for one that looks raw.
    pub(crate) fn of(file: &File, size: u64) -> io::Result<Option<Self>> {
        // without the alignment that direct I/O asks for
        let file = reopen(file, OpenOptions::new().read(true))?;
        let mut header = [0; HEADER_LEN];
        read_up_to(&file, 0, &mut header)?;
        if let Some((_, _, format)) = MAGIC.iter().find(|(at, magic, _)| header[*at..].starts_with(magic)) {
            return Ok(Some(*format));
        }
        if Superblock::claimed_uuid(&header).is_some() {
            return Ok(Some(Self::Sidecar));
        }
        // an image of a fixed size has its header behind the data
        let Some(footer_at) = size.checked_sub(HEADER_LEN as u64) else { return Ok(None) };
        let mut footer = [0; VHD_COOKIE.len()];
        read_up_to(&file, footer_at, &mut footer)?;
        Ok((footer == VHD_COOKIE).then_some(Self::Vhd))
    }

    /// The name of the format, with an article.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Qcow => "a qcow2 image",
            Self::Qed => "a qed image",
            Self::Vmdk => "a vmdk image",
            Self::Vdi => "a vdi image",
            Self::Vhdx => "a vhdx image",
            Self::Vhd => "a vhd image",
            Self::Luks => "an image encrypted by LUKS",
            Self::Sidecar => "a sidecar",
        }
    }

    /// How to get a raw image in the place of `path`.
    pub(crate) fn cure(self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Luks => {
                format!("open it with `cryptsetup open {path} NAME` and name /dev/mapper/NAME")
            }
            Self::Sidecar => "name its image".to_owned(),
            _ => format!("convert it with `qemu-img convert -O raw {path} {path}.raw`"),
        }
    }
}

/// Fills `buffer` as far as the file goes.
pub(crate) fn read_up_to(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => return Ok(()),
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
