//! The programs that are measured, with their command lines.

use std::path::Path;
use std::process::Command;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::storage::{Disk, Storage};

/// The program that serves the disk. `Fio` serves none: it is the limit, without a back-end or a
/// guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Subject {
    /// Bounce, 64-bit guard
    PiCrc64,
    /// The same, without polling before it sleeps
    PiCrc64Sleeping,
    /// Bounce, 64-bit guard, a tuple cache for a quarter of the disk
    PiCrc64Quarter,
    /// Bounce, T10 16-bit guard
    PiT10,
    /// Bounce, no integrity
    Bounce,
    /// Neither
    ZeroCopy,
    /// qemu-storage-daemon with an I/O thread, which polls before it sleeps
    Qemu,
    /// qemu-storage-daemon without one, which does not
    QemuMainLoop,
    /// fio on the image
    Fio,
}

/// An interval of 4096 bytes has a tuple of 16 bytes; 248 of them are in a page of 4096 bytes.
const TUPLES_SHARE: u64 = 248;

impl Subject {
    pub(crate) const ALL: [Self; 9] = [
        Self::PiCrc64,
        Self::PiCrc64Sleeping,
        Self::PiCrc64Quarter,
        Self::PiT10,
        Self::Bounce,
        Self::ZeroCopy,
        Self::Qemu,
        Self::QemuMainLoop,
        Self::Fio,
    ];

    /// As tables and charts have it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::PiCrc64 => "bounce + PI 64b",
            Self::PiCrc64Sleeping => "bounce + PI 64b, no polling",
            Self::PiCrc64Quarter => "bounce + PI 64b, small cache",
            Self::PiT10 => "bounce + PI T10",
            Self::Bounce => "bounce",
            Self::ZeroCopy => "zero copy",
            Self::Qemu => "QEMU",
            Self::QemuMainLoop => "QEMU, main loop",
            Self::Fio => "fio, raw file",
        }
    }

    /// Polling matters at low depths; subjects that differ only in polling are not measured
    /// elsewhere. There is no null device for fio.
    pub(crate) fn can_do(self, cell: &Cell) -> bool {
        match self {
            Self::PiCrc64Sleeping | Self::QemuMainLoop => {
                (cell.workload.depth, cell.workload.queues, cell.workload.block_size) == (1, 1, 4096)
            }
            Self::Fio => cell.storage != Storage::Null && cell.workload.flush_every == 0,
            Self::PiCrc64Quarter => cell.storage == Storage::Large,
            _ => true,
        }
    }

    /// The command that serves `disk` on `socket`; none for fio.
    pub(crate) fn serve(
        self,
        disk: &Disk,
        socket: &Path,
        queues: usize,
        stableblk: &Path,
    ) -> Option<Command> {
        match self {
            Self::Fio => None,
            Self::Qemu => Some(qemu_storage_daemon(disk, socket, queues, true)),
            Self::QemuMainLoop => Some(qemu_storage_daemon(disk, socket, queues, false)),
            _ => Some(self.stableblk(disk, socket, queues, stableblk)),
        }
    }

    fn stableblk(self, disk: &Disk, socket: &Path, queues: usize, stableblk: &Path) -> Command {
        let mut serve = Command::new(stableblk);
        serve.args(["--log", "warn"]).arg("--socket-path").arg(socket).arg("--blk-file").arg(disk.image());
        serve.args(["--num-queues", &queues.to_string(), "--integrity"]);
        match self {
            Self::PiCrc64 => serve.arg(disk.crc64_sidecar()),
            Self::PiCrc64Sleeping => serve.arg(disk.crc64_sidecar()).args(["--poll-us", "0"]),
            Self::PiCrc64Quarter => {
                let cache = (disk.size / TUPLES_SHARE / 4).to_string();
                serve.arg(disk.crc64_sidecar()).args(["--tuple-cache", &cache])
            }
            Self::PiT10 => serve.arg(disk.t10_sidecar()),
            Self::Bounce => serve.args(["none", "--bounce", "always"]),
            Self::ZeroCopy | Self::Qemu | Self::QemuMainLoop | Self::Fio => serve.arg("none"),
        };
        if disk.storage == Storage::Null {
            serve.args(["--device", "null"]);
        }
        serve
    }
}

fn qemu_storage_daemon(disk: &Disk, socket: &Path, queues: usize, io_thread: bool) -> Command {
    let blockdev = match disk.storage {
        Storage::Null => format!("driver=null-co,node-name=disk,read-zeroes=on,size={}", disk.size),
        Storage::Tmpfs | Storage::Ext4 | Storage::Xfs | Storage::Large => format!(
            "driver=file,node-name=disk,filename={},aio=io_uring,cache.direct=on",
            disk.image().display()
        ),
    };
    let mut export = format!(
        "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={},writable=on,num-queues={queues}",
        socket.display()
    );
    let mut daemon = guest::qemu_storage_daemon();
    if io_thread {
        daemon.args(["--object", "iothread,id=io"]);
        export.push_str(",iothread=io");
    }
    daemon.args(["--blockdev", &blockdev, "--export", &export]);
    daemon
}
