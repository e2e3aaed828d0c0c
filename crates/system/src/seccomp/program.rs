//! Instructions of filter programs, in classic BPF.

use std::io;

use libc::{sock_filter, sock_fprog};

// Offsets in `struct seccomp_data'; processors are little-endian.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
pub(super) const FIRST_ARGUMENT: u32 = 16;

/// The place of an argument's lower half.
pub(super) const fn argument(index: u32) -> u32 {
    FIRST_ARGUMENT + 8 * index
}

/// Makes this thread and its descendants obey a program, permanently; the thread can't gain
/// privileges any more. An empty program, and a kernel without filters, change nothing.
pub(super) fn install(program: &[sock_filter]) -> io::Result<()> {
    if program.is_empty() {
        return Ok(());
    }
    let filter = sock_fprog {
        len: program.len() as libc::c_ushort,
        filter: program.as_ptr().cast_mut(),
    };
    let (mode, flags): (libc::c_uint, libc::c_uint) = (libc::SECCOMP_SET_MODE_FILTER, 0);
    // SAFETY: the program and its length belong together, and the kernel only reads it.
    if unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const filter) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // A kernel without seccomp filters.
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
        error => Err(error),
    }
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Continues with the next instruction if the condition holds; otherwise skips `skip` instructions.
pub(super) fn unless(condition: u32, k: u32, skip: usize) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | condition | libc::BPF_K) as u16,
        jt: 0,
        // All parts of the program are shorter than that, as a test checks.
        jf: u8::try_from(skip).unwrap_or(u8::MAX),
        k,
    }
}

pub(super) fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

pub(super) fn give(action: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action)
}

pub(super) fn fail(error: libc::c_int) -> sock_filter {
    give(libc::SECCOMP_RET_ERRNO | error.unsigned_abs())
}

/// The verdict on a call whose first argument is an address family: other families than these fail as
/// in a kernel without them.
pub(super) fn only_families(families: &[libc::c_int]) -> Vec<sock_filter> {
    let mut part = vec![load(FIRST_ARGUMENT)];
    for family in families {
        let allow = give(libc::SECCOMP_RET_ALLOW);
        part.extend([unless(libc::BPF_JEQ, family.unsigned_abs(), 1), allow]);
    }
    part.push(fail(libc::EAFNOSUPPORT));
    part
}

/// The reverse of [`unless`], for a single instruction: skips it if the condition holds.
pub(super) fn skip_if(condition: u32, k: u32) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | condition | libc::BPF_K) as u16,
        jt: 1,
        jf: 0,
        k,
    }
}

/// What the kernel would do.
#[cfg(test)]
pub(super) mod simulation {
    use super::*;

    /// Runs the program as the kernel does; returns the verdict.
    pub(in super::super) fn verdict(
        program: &[sock_filter],
        architecture: u32,
        number: u32,
        arguments: &[u32],
    ) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match u32::from(step.code) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    value = match step.k {
                        NUMBER => number,
                        ARCHITECTURE => architecture,
                        other => arguments[(other - FIRST_ARGUMENT) as usize / 8],
                    };
                }
                code if code == libc::BPF_RET | libc::BPF_K => return step.k,
                code => {
                    let holds = match code & !(libc::BPF_JMP | libc::BPF_K) {
                        libc::BPF_JEQ => value == step.k,
                        libc::BPF_JGE => value >= step.k,
                        libc::BPF_JSET => value & step.k != 0,
                        other => panic!("jumps if {other}"),
                    };
                    at += usize::from(if holds { step.jt } else { step.jf });
                }
            }
        }
    }
}
