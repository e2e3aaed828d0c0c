//! The system-call filter of builders.
//!
//! It removes what builds don't need and a hostile one could use: calls that reach beyond
//! namespaces (`AF_VSOCK`, keyrings, kernel modules) and large parts of the kernel that have been
//! exploited before (`io_uring`, `userfaultfd`, `bpf`, `AF_ALG`). Refused calls fail as in a kernel
//! without these features, which programs and test suites can handle; no process is killed.
//!
//! The program is classic BPF, written by hand: it must know the system call numbers of the
//! processor's 32-bit ABI, too, since builds for `i686-linux` run on `x86_64-linux` and those for
//! `armhf-linux` on `aarch64-linux`. `libc` doesn't have these, so they are written here;
//! `tests/configure/system-calls.sh` compares them with the kernel's headers.

use std::io;

use libc::sock_filter;

use super::program::{ARCHITECTURE, NUMBER, fail, give, install, load, only_families, unless};
use crate::call_numbers::new::{IO_URING_ENTER, IO_URING_REGISTER, IO_URING_SETUP};
#[cfg(target_arch = "aarch64")]
use crate::call_numbers::{AUDIT_ARCH_AARCH64, AUDIT_ARCH_ARM, arm};
#[cfg(target_arch = "x86_64")]
use crate::call_numbers::{AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, X32_SYSCALL_BIT, i386};

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

/// The address families of sockets that a program needs which fetches from the network; name services
/// look at the kernel's own tables.
const REMOTE_FAMILIES: [libc::c_int; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

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
    /// From this number on, calls belong to another ABI (`x32`), which nobody uses.
    end: Option<u32>,
}

/// [`Abi::missing`] of the native ABI.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const NATIVE_MISSING: [libc::c_long; 7] = [
    IO_URING_SETUP,
    IO_URING_ENTER,
    IO_URING_REGISTER,
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

#[cfg(target_arch = "x86_64")]
const ABIS: [Abi; 2] = [
    Abi {
        architecture: AUDIT_ARCH_X86_64,
        missing: &NATIVE_MISSING,
        forbidden: &NATIVE_FORBIDDEN,
        socket: NATIVE_SOCKET,
        multiplexer: None,
        end: Some(X32_SYSCALL_BIT),
    },
    Abi {
        architecture: AUDIT_ARCH_I386,
        missing: &[
            IO_URING_SETUP,
            IO_URING_ENTER,
            IO_URING_REGISTER,
            i386::ADD_KEY,
            i386::REQUEST_KEY,
            i386::KEYCTL,
            i386::USERFAULTFD,
        ],
        forbidden: &[
            i386::INIT_MODULE,
            i386::FINIT_MODULE,
            i386::DELETE_MODULE,
            i386::KEXEC_LOAD,
            i386::BPF,
            i386::PERF_EVENT_OPEN,
            i386::OPEN_BY_HANDLE_AT,
        ],
        socket: [i386::SOCKET, i386::SOCKETPAIR],
        multiplexer: Some(i386::SOCKETCALL),
        end: None,
    },
];

#[cfg(target_arch = "aarch64")]
const ABIS: [Abi; 2] = [
    Abi {
        architecture: AUDIT_ARCH_AARCH64,
        missing: &NATIVE_MISSING,
        forbidden: &NATIVE_FORBIDDEN,
        socket: NATIVE_SOCKET,
        multiplexer: None,
        end: None,
    },
    Abi {
        architecture: AUDIT_ARCH_ARM,
        missing: &[
            IO_URING_SETUP,
            IO_URING_ENTER,
            IO_URING_REGISTER,
            arm::ADD_KEY,
            arm::REQUEST_KEY,
            arm::KEYCTL,
            arm::USERFAULTFD,
        ],
        forbidden: &[
            arm::INIT_MODULE,
            arm::FINIT_MODULE,
            arm::DELETE_MODULE,
            arm::KEXEC_LOAD,
            arm::KEXEC_FILE_LOAD,
            arm::BPF,
            arm::PERF_EVENT_OPEN,
            arm::OPEN_BY_HANDLE_AT,
        ],
        socket: [arm::SOCKET, arm::SOCKETPAIR],
        multiplexer: None,
        end: None,
    },
];

/// For other processors there is no filter, so other protections have to suffice.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ABIS: [Abi; 0] = [];

/// Forbids these calls to this process and its descendants permanently, and prevents them from
/// gaining privileges by executing a program (`no_new_privs`).
///
/// With `native_only`, 32-bit programs can't use `socketcall`, whose arguments a filter can't see
/// and which could create any socket. Builds for the 32-bit system need it: its C library uses
/// nothing else.
pub fn restrict_builder(native_only: bool) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    install(&program(native_only, &SOCKET_FAMILIES))
}

/// Restricts this process and its descendants as builders are (`native_only`), and keeps them from
/// local sockets, by which the machine's services are reached. Pairs of sockets remain.
pub fn restrict_downloader() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    install(&program(true, &REMOTE_FAMILIES))
}

/// The filter program: one part for each ABI; every other ABI is refused. Sockets that are no pairs have
/// one of `families`.
fn program(native_only: bool, families: &[libc::c_int]) -> Vec<sock_filter> {
    let mut program = Vec::new();
    for abi in &ABIS {
        let part = part(abi, native_only, families);
        program.push(unless(libc::BPF_JEQ, abi.architecture, part.len()));
        program.extend(part);
    }
    if !program.is_empty() {
        program.insert(0, load(ARCHITECTURE));
        program.push(fail(libc::ENOSYS));
    }
    program
}

/// The part for one ABI; every path through it ends with a verdict.
fn part(abi: &Abi, native_only: bool, families: &[libc::c_int]) -> Vec<sock_filter> {
    let mut part = vec![load(NUMBER)];
    if let Some(end) = abi.end {
        part.extend([unless(libc::BPF_JGE, end, 1), fail(libc::ENOSYS)]);
    }
    let multiplexer = abi.multiplexer.filter(|_| native_only);
    let missing = abi.missing.iter().copied().chain(multiplexer);
    let refused = missing
        .map(|number| (number, libc::ENOSYS))
        .chain(abi.forbidden.iter().map(|number| (*number, libc::EPERM)));
    for (number, error) in refused {
        part.extend([unless(libc::BPF_JEQ, number as u32, 1), fail(error)]);
    }
    for (number, families) in abi.socket.into_iter().zip([families, &SOCKET_FAMILIES]) {
        let sockets = only_families(families);
        part.push(unless(libc::BPF_JEQ, number as u32, sockets.len()));
        part.extend(sockets);
    }
    part.push(give(libc::SECCOMP_RET_ALLOW));
    part
}

#[cfg(test)]
mod tests {
    use super::super::program::simulation::verdict;
    use super::*;

    const fn error(number: libc::c_int) -> u32 {
        libc::SECCOMP_RET_ERRNO | number.unsigned_abs()
    }

    #[test]
    fn every_part_can_be_skipped() {
        for abi in &ABIS {
            assert!(part(abi, true, &SOCKET_FAMILIES).len() < usize::from(u8::MAX));
        }
    }

    #[test]
    fn calls_of_each_kind_get_their_verdict() {
        for native_only in [false, true] {
            let program = program(native_only, &SOCKET_FAMILIES);
            for abi in &ABIS {
                let ask = |number: libc::c_long, argument: libc::c_int| {
                    let argument = argument.unsigned_abs();
                    verdict(&program, abi.architecture, number as u32, &[argument])
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
                    let expected = match native_only {
                        true => error(libc::ENOSYS),
                        false => libc::SECCOMP_RET_ALLOW,
                    };
                    assert_eq!(ask(number, 0), expected);
                }
                assert_eq!(ask(1, 0), libc::SECCOMP_RET_ALLOW);
            }
            assert_eq!(verdict(&program, 0, 1, &[0]), error(libc::ENOSYS));
        }
    }

    #[test]
    fn downloaders_have_no_local_sockets_but_pairs() {
        let program = program(true, &REMOTE_FAMILIES);
        for abi in &ABIS {
            let [socket, pair] = abi.socket;
            let ask = |number: libc::c_long, family: libc::c_int| {
                let family = family.unsigned_abs();
                verdict(&program, abi.architecture, number as u32, &[family])
            };
            assert_eq!(ask(socket, libc::AF_UNIX), error(libc::EAFNOSUPPORT));
            assert_eq!(ask(socket, libc::AF_INET), libc::SECCOMP_RET_ALLOW);
            assert_eq!(ask(pair, libc::AF_UNIX), libc::SECCOMP_RET_ALLOW);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_kernels_third_kind_of_calls_is_refused() {
        let number = X32_SYSCALL_BIT | libc::SYS_socket as u32;
        assert_eq!(
            verdict(
                &program(true, &SOCKET_FAMILIES),
                ABIS[0].architecture,
                number,
                &[1]
            ),
            error(libc::ENOSYS)
        );
    }
}
