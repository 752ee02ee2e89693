//! Ends the guest with a result: `power-off CODE` makes QEMU exit with `2 * (16 + CODE) + 1`,
//! through its isa-debug-exit device.
//!
//! The 16 keeps every result apart from QEMU's own exit codes 0 and 1.

use std::{arch::asm, io};

use guest_programs::{arguments, number};

/// `iobase` of the device on QEMU's command line.
const DEBUG_EXIT_PORT: u16 = 0xf4;

/// QEMU's exit code has 8 bits; higher codes are reported as this one.
const CODE_MAX: u8 = 111;

fn main() -> Result<(), String> {
    let [code] = arguments("power-off CODE")?;
    let value = 16 + number::<u8>(&code)?.min(CODE_MAX);
    // SAFETY: only changes which ports this process may reach; 3 is the level that allows all.
    if unsafe { libc::iopl(3) } != 0 {
        return Err(format!("iopl: {}", io::Error::last_os_error()));
    }
    // SAFETY: iopl allowed the port; the device behind it touches no memory of ours, it ends the
    // machine.
    unsafe { asm!("out dx, al", in("dx") DEBUG_EXIT_PORT, in("al") value, options(nomem, nostack)) };
    Err("QEMU went on: has it an isa-debug-exit device at 0xf4?".into())
}
