//! The system-call filter of builders (`seccomp(2)`).
//!
//! It removes what builds don't need and a hostile one could use: calls that reach beyond
//! namespaces (`AF_VSOCK`, keyrings, kernel modules) and large parts of the kernel that have been
//! exploited before (`io_uring`, `userfaultfd`, `bpf`, `AF_ALG`). Refused calls fail as in a kernel
//! without these features, which programs and test suites can handle; no process is killed.
//!
//! Without a chroot, others can execute the files that a builder makes, and it must not make any
//! with which they would become its user, for as long as they like: it can't set set-id bits.
//!
//! The program is classic BPF, written by hand: it must know the system call numbers of the
//! processor's 32-bit ABI, too, since builds for `i686-linux` run on `x86_64-linux` and those for
//! `armhf-linux` on `aarch64-linux`.

use std::io;

use libc::{sock_filter, sock_fprog};

/// The address families that a builder may use: local, IPv4, IPv6, the kernel's own tables
/// (`netlink`), raw frames in its own network namespace. All others fail as in a kernel without
/// them.
const SOCKET_FAMILIES: [libc::c_int; 5] = [
    libc::AF_UNIX,
    libc::AF_INET,
    libc::AF_INET6,
    libc::AF_NETLINK,
    libc::AF_PACKET,
];

/// An ABI, as filters see it, and the numbers of its system calls.
struct Abi {
    /// `AUDIT_ARCH_…` of `linux/audit.h`.
    architecture: u32,
    /// Calls that fail with `ENOSYS`, as in a kernel without them.
    missing: &'static [libc::c_long],
    /// Calls that fail with `EPERM`, as they do for unprivileged users.
    forbidden: &'static [libc::c_long],
    /// `socket` and `socketpair`.
    socket: [libc::c_long; 2],
    /// The call that multiplexes socket calls (`socketcall`), whose arguments a filter can't see.
    multiplexer: Option<libc::c_long>,
    /// The calls that give a file a mode.
    modes: &'static [Mode],
    /// From this number on, calls belong to another ABI (`x32`), which nobody uses.
    end: Option<u32>,
}

/// A call that gives a file a mode, and the numbers of its arguments, from 0 on.
#[derive(Clone, Copy)]
struct Mode {
    number: libc::c_long,
    mode: u32,
    /// For calls that open a file: the flags. Without [`CREATES`] the mode means nothing.
    flags: Option<u32>,
}

/// A call with a mode.
const fn sets(number: libc::c_long, mode: u32) -> Mode {
    Mode {
        number,
        mode,
        flags: None,
    }
}

/// A call with flags, followed by a mode.
const fn opens(number: libc::c_long, flags: u32) -> Mode {
    Mode {
        number,
        mode: flags + 1,
        flags: Some(flags),
    }
}

/// `O_CREAT` and the bit of `O_TMPFILE` that `O_DIRECTORY` lacks: the same on these processors.
const CREATES: u32 = 0o20_000_100;
/// The set-user-id and the set-group-id bit.
const SET_ID: u32 = 0o6000;
/// `fchmodat2`: the same number everywhere.
const FCHMODAT2: libc::c_long = 452;
/// `openat2`, whose arguments a filter can't see: the same number everywhere.
const OPENAT2: libc::c_long = 437;

/// `io_uring_setup`, `io_uring_enter`, `io_uring_register`: the same numbers everywhere.
const IO_URING: [libc::c_long; 3] = [425, 426, 427];

/// [`Abi::missing`] of the native ABI.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const NATIVE_MISSING: [libc::c_long; 7] = [
    IO_URING[0],
    IO_URING[1],
    IO_URING[2],
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_userfaultfd,
];

/// [`Abi::forbidden`] of the native ABI.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const NATIVE_FORBIDDEN: [libc::c_long; 8] = [
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_open_by_handle_at,
];

/// [`Abi::socket`] of the native ABI.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const NATIVE_SOCKET: [libc::c_long; 2] = [libc::SYS_socket, libc::SYS_socketpair];

/// [`Abi::modes`] of the native ABI.
#[cfg(target_arch = "x86_64")]
const NATIVE_MODES: [Mode; 9] = [
    sets(libc::SYS_chmod, 1),
    sets(libc::SYS_fchmod, 1),
    sets(libc::SYS_fchmodat, 2),
    sets(FCHMODAT2, 2),
    sets(libc::SYS_creat, 1),
    sets(libc::SYS_mknod, 1),
    sets(libc::SYS_mknodat, 2),
    opens(libc::SYS_open, 1),
    opens(libc::SYS_openat, 2),
];

/// [`Abi::modes`] of the native ABI.
#[cfg(target_arch = "aarch64")]
const NATIVE_MODES: [Mode; 5] = [
    sets(libc::SYS_fchmod, 1),
    sets(libc::SYS_fchmodat, 2),
    sets(FCHMODAT2, 2),
    sets(libc::SYS_mknodat, 2),
    opens(libc::SYS_openat, 2),
];

#[cfg(target_arch = "x86_64")]
const ABIS: [Abi; 2] = [
    Abi {
        architecture: 0xc000_003e,
        missing: &NATIVE_MISSING,
        forbidden: &NATIVE_FORBIDDEN,
        socket: NATIVE_SOCKET,
        multiplexer: None,
        modes: &NATIVE_MODES,
        end: Some(0x4000_0000),
    },
    // `arch/x86/entry/syscalls/syscall_32.tbl'.
    Abi {
        architecture: 0x4000_0003,
        missing: &[IO_URING[0], IO_URING[1], IO_URING[2], 286, 287, 288, 374],
        forbidden: &[128, 350, 129, 283, 357, 336, 342],
        socket: [359, 360],
        multiplexer: Some(102),
        modes: &[
            sets(15, 1),
            sets(94, 1),
            sets(306, 2),
            sets(FCHMODAT2, 2),
            sets(8, 1),
            sets(14, 1),
            sets(297, 2),
            opens(5, 1),
            opens(295, 2),
        ],
        end: None,
    },
];

#[cfg(target_arch = "aarch64")]
const ABIS: [Abi; 2] = [
    Abi {
        architecture: 0xc000_00b7,
        missing: &NATIVE_MISSING,
        forbidden: &NATIVE_FORBIDDEN,
        socket: NATIVE_SOCKET,
        multiplexer: None,
        modes: &NATIVE_MODES,
        end: None,
    },
    // `arch/arm/tools/syscall.tbl'.
    Abi {
        architecture: 0x4000_0028,
        missing: &[IO_URING[0], IO_URING[1], IO_URING[2], 309, 310, 311, 388],
        forbidden: &[128, 379, 129, 347, 401, 386, 364, 371],
        socket: [281, 288],
        multiplexer: None,
        modes: &[
            sets(15, 1),
            sets(94, 1),
            sets(333, 2),
            sets(FCHMODAT2, 2),
            sets(8, 1),
            sets(14, 1),
            sets(324, 2),
            opens(5, 1),
            opens(322, 2),
        ],
        end: None,
    },
];

/// For other processors there is no filter, so other protections have to suffice.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ABIS: [Abi; 0] = [];

// Offsets in `struct seccomp_data'; processors are little-endian.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
/// The size of an argument; its lower half comes first.
const ARGUMENT: u32 = 8;

/// What a builder can't do, besides what none can.
#[derive(Clone, Copy, Debug)]
pub struct Restrictions {
    /// 32-bit programs can't use `socketcall`, whose arguments a filter can't see and which could
    /// create any socket. Builds for the 32-bit system need it: its C library uses nothing else.
    pub native_only: bool,
    /// Files can't get a set-user-id or set-group-id bit: that fails with `EPERM`.
    pub no_set_id: bool,
}

/// Forbids these calls to this process and its descendants permanently, and prevents them from
/// gaining privileges by executing a program (`no_new_privs`).
pub fn restrict_builder(restrictions: Restrictions) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    let program = program(restrictions);
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
fn unless(condition: u32, k: u32, skip: usize) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | condition | libc::BPF_K) as u16,
        jt: 0,
        // All parts of the program are shorter than that, as a test checks.
        jf: u8::try_from(skip).unwrap_or(u8::MAX),
        k,
    }
}

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn give(action: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, action)
}

fn fail(error: libc::c_int) -> sock_filter {
    give(libc::SECCOMP_RET_ERRNO | error.unsigned_abs())
}

/// The filter program: one part for each ABI; every other ABI is refused.
fn program(restrictions: Restrictions) -> Vec<sock_filter> {
    if ABIS.is_empty() {
        return Vec::new();
    }
    let mut program = vec![load(ARCHITECTURE)];
    for abi in &ABIS {
        let part = part(abi, restrictions);
        program.push(unless(libc::BPF_JEQ, abi.architecture, part.len()));
        program.extend(part);
    }
    program.push(fail(libc::ENOSYS));
    program
}

/// The part for one ABI; every path through it ends with a verdict.
fn part(abi: &Abi, restrictions: Restrictions) -> Vec<sock_filter> {
    let multiplexer = abi.multiplexer.filter(|_| restrictions.native_only);
    let hidden_mode = restrictions.no_set_id.then_some(OPENAT2);
    let missing = abi.missing.iter().copied();
    let missing = missing.chain(multiplexer).chain(hidden_mode);
    let refused = missing
        .map(|number| (number, libc::ENOSYS))
        .chain(abi.forbidden.iter().map(|number| (*number, libc::EPERM)));
    let mut special: Vec<(u32, Vec<sock_filter>)> = refused
        .map(|(number, error)| (number as u32, vec![fail(error)]))
        .chain(abi.socket.map(|number| (number as u32, by_family())))
        .collect();
    if restrictions.no_set_id {
        let checked = abi.modes.iter();
        special.extend(checked.map(|call| (call.number as u32, set_id_check(call))));
    }
    special.sort_unstable_by_key(|(number, _)| *number);
    let mut part = vec![load(NUMBER)];
    if let Some(end) = abi.end {
        part.extend([unless(libc::BPF_JGE, end, 1), fail(libc::ENOSYS)]);
    }
    part.extend(search(&special));
    part
}

/// The verdict on making a socket.
fn by_family() -> Vec<sock_filter> {
    let mut program = vec![load(FIRST_ARGUMENT)];
    for family in SOCKET_FAMILIES {
        let allow = give(libc::SECCOMP_RET_ALLOW);
        program.extend([unless(libc::BPF_JEQ, family.unsigned_abs(), 1), allow]);
    }
    program.push(fail(libc::EAFNOSUPPORT));
    program
}

/// Searches the sorted numbers for the loaded one, and goes on with what belongs to it; other calls
/// are allowed.
///
/// It is a binary search: when a filter is installed, the kernel tries it with every number there
/// is, to find those that it never needs to ask about.
fn search(special: &[(u32, Vec<sock_filter>)]) -> Vec<sock_filter> {
    let allow = give(libc::SECCOMP_RET_ALLOW);
    match special {
        [] => vec![allow],
        [(number, verdict)] => {
            let mut program = vec![unless(libc::BPF_JEQ, *number, verdict.len())];
            program.extend(verdict);
            program.push(allow);
            program
        }
        _ => {
            let (low, high) = special.split_at(special.len() / 2);
            let above = search(high);
            let mut program = vec![unless(libc::BPF_JGE, high[0].0, above.len())];
            program.extend(above);
            program.extend(search(low));
            program
        }
    }
}

/// The verdict on a call that gives a file a mode.
fn set_id_check(call: &Mode) -> Vec<sock_filter> {
    let argument = |number: u32| load(FIRST_ARGUMENT + number * ARGUMENT);
    let allow = give(libc::SECCOMP_RET_ALLOW);
    let refuse = [
        argument(call.mode),
        unless(libc::BPF_JSET, SET_ID, 1),
        fail(libc::EPERM),
    ];
    let mut check = Vec::new();
    if let Some(flags) = call.flags {
        check.extend([
            argument(flags),
            unless(libc::BPF_JSET, CREATES, refuse.len()),
        ]);
    }
    check.extend(refuse);
    check.push(allow);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Restrictions; 4] = {
        const fn restrictions(native_only: bool, no_set_id: bool) -> Restrictions {
            Restrictions {
                native_only,
                no_set_id,
            }
        }
        [
            restrictions(false, false),
            restrictions(false, true),
            restrictions(true, false),
            restrictions(true, true),
        ]
    };

    /// Runs the program as the kernel does; returns the verdict.
    fn verdict(
        program: &[sock_filter],
        architecture: u32,
        number: u32,
        arguments: [u32; 4],
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
                        offset => {
                            let offset = offset - FIRST_ARGUMENT;
                            assert_eq!(offset % ARGUMENT, 0);
                            arguments[(offset / ARGUMENT) as usize]
                        }
                    };
                }
                code if code == libc::BPF_RET | libc::BPF_K => return step.k,
                code => {
                    let condition = code & !(libc::BPF_JMP | libc::BPF_K);
                    let holds = match condition {
                        libc::BPF_JEQ => value == step.k,
                        libc::BPF_JGE => value >= step.k,
                        libc::BPF_JSET => value & step.k != 0,
                        other => panic!("condition {other}"),
                    };
                    at += usize::from(if holds { step.jt } else { step.jf });
                }
            }
        }
    }

    const fn error(number: libc::c_int) -> u32 {
        libc::SECCOMP_RET_ERRNO | number.unsigned_abs()
    }

    #[test]
    fn every_part_can_be_skipped() {
        for abi in &ABIS {
            for restrictions in ALL {
                assert!(part(abi, restrictions).len() < usize::from(u8::MAX));
            }
        }
    }

    #[test]
    fn calls_of_each_kind_get_their_verdict() {
        for restrictions in ALL {
            let program = program(restrictions);
            for abi in &ABIS {
                let ask = |number: libc::c_long, argument: libc::c_int| {
                    let argument = argument.unsigned_abs();
                    verdict(&program, abi.architecture, number as u32, [argument; 4])
                };
                for number in abi.missing {
                    assert_eq!(ask(*number, 0), error(libc::ENOSYS));
                }
                for number in abi.forbidden {
                    assert_eq!(ask(*number, 0), error(libc::EPERM));
                }
                for number in abi.socket {
                    assert_eq!(ask(number, libc::AF_UNIX), libc::SECCOMP_RET_ALLOW);
                    assert_eq!(ask(number, libc::AF_INET6), libc::SECCOMP_RET_ALLOW);
                    assert_eq!(ask(number, libc::AF_VSOCK), error(libc::EAFNOSUPPORT));
                    assert_eq!(ask(number, libc::AF_ALG), error(libc::EAFNOSUPPORT));
                }
                if let Some(number) = abi.multiplexer {
                    let expected = match restrictions.native_only {
                        true => error(libc::ENOSYS),
                        false => libc::SECCOMP_RET_ALLOW,
                    };
                    assert_eq!(ask(number, 0), expected);
                }
                let special = abi.missing.iter().chain(abi.forbidden);
                let special: Vec<_> = special
                    .copied()
                    .chain(abi.socket)
                    .chain(abi.multiplexer)
                    .chain([OPENAT2])
                    .collect();
                for number in (0..1000).filter(|number| !special.contains(number)) {
                    assert_eq!(ask(number, 0), libc::SECCOMP_RET_ALLOW, "{number}");
                }
            }
            assert_eq!(verdict(&program, 0, 1, [0; 4]), error(libc::ENOSYS));
        }
    }

    #[test]
    fn set_id_bits_are_refused_in_every_call_that_gives_a_mode() {
        for restrictions in ALL {
            let program = program(restrictions);
            for abi in &ABIS {
                for call in abi.modes {
                    let ask = |mode, flags| {
                        let mut arguments = [0; 4];
                        arguments[call.mode as usize] = mode;
                        if let Some(at) = call.flags {
                            arguments[at as usize] = flags;
                        }
                        verdict(&program, abi.architecture, call.number as u32, arguments)
                    };
                    let refused = match restrictions.no_set_id {
                        true => error(libc::EPERM),
                        false => libc::SECCOMP_RET_ALLOW,
                    };
                    let creating = [libc::O_CREAT | libc::O_WRONLY, libc::O_TMPFILE];
                    for flags in creating.map(libc::c_int::cast_unsigned) {
                        assert_eq!(ask(0o1777, flags), libc::SECCOMP_RET_ALLOW);
                        for mode in [0o4755, 0o2755, 0o6000] {
                            assert_eq!(ask(mode, flags), refused);
                        }
                    }
                    if call.flags.is_some() {
                        let flags = (libc::O_DIRECTORY | libc::O_RDWR).cast_unsigned();
                        assert_eq!(ask(0o4755, flags), libc::SECCOMP_RET_ALLOW);
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_kernels_third_kind_of_calls_is_refused() {
        let number = 0x4000_0000 | libc::SYS_socket as u32;
        assert_eq!(
            verdict(&program(ALL[3]), ABIS[0].architecture, number, [1; 4]),
            error(libc::ENOSYS)
        );
    }
}
