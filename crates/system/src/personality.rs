//! The execution domain of this process, which is kept when it executes a program.

use std::io;

pub use nix::sys::personality::Persona;

/// The Linux execution domain for 32-bit programs: `uname` reports a 32-bit machine.
pub const LINUX32: i32 = 0x0008;

/// Makes `uname` report a kernel version that starts with 2.6.
pub const UNAME26: i32 = 0x0002_0000;

/// Disables address space randomisation.
pub const NO_RANDOMIZE: i32 = 0x0004_0000;

/// The current execution domain.
pub fn get() -> io::Result<i32> {
    Ok(nix::sys::personality::get()?.bits())
}

/// Sets the execution domain.
pub fn set(bits: i32) -> io::Result<()> {
    nix::sys::personality::set(Persona::from_bits_retain(bits))?;
    Ok(())
}
