//! The system-call filter of programs that talk over the network.
//!
//! A client of servers may compute, start threads, read files, and talk by sockets that it connects, by pipes, and by
//! what it was started with. It can't start programs or processes, act on other processes, write to
//! files or change them in any way, accept connections, or use parts of the kernel that it doesn't
//! need. What is refused fails as it does for somebody without the right.
//!
//! A server may also accept connections where it listens already, and connect to local sockets. Others it connects only
//! if it has to, and by TCP only: Landlock can tell where TCP leads, and knows of nothing else.
//!
//! Who starts programs, and so can have none of that, must still not change files: Landlock knows of no modes, owners,
//! times and attributes.

use std::io;

use libc::sock_filter;

use super::program::{
    ARCHITECTURE, NUMBER, argument, fail, give, install, load, only_families, skip_if, unless,
};
#[cfg(target_arch = "aarch64")]
use crate::call_numbers::AUDIT_ARCH_AARCH64;
use crate::call_numbers::new;
#[cfg(target_arch = "x86_64")]
use crate::call_numbers::{AUDIT_ARCH_X86_64, X32_SYSCALL_BIT};

/// The processor's own ABI, as filters see it.
#[cfg(target_arch = "x86_64")]
const NATIVE: Option<u32> = Some(AUDIT_ARCH_X86_64);
/// See above.
#[cfg(target_arch = "aarch64")]
const NATIVE: Option<u32> = Some(AUDIT_ARCH_AARCH64);
/// For other processors there is no filter, so other protections have to suffice.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const NATIVE: Option<u32> = None;

/// Calls that fail as in a kernel without them: the C library then uses older ones, whose arguments a
/// filter can see.
const MISSING: &[libc::c_long] = &[
    libc::SYS_clone3,
    libc::SYS_openat2,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    new::IO_URING_SETUP,
    new::IO_URING_ENTER,
    new::IO_URING_REGISTER,
];

/// Calls that aren't allowed to anybody here.
const FORBIDDEN: &[libc::c_long] = &[
    // Programs and processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    // Namespaces, mounts and the machine.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_chroot,
    libc::SYS_pivot_root,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    new::OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_quotactl,
    new::QUOTACTL_FD,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_personality,
    libc::SYS_fanotify_init,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // What outlives the program, or is shared with others.
    libc::SYS_memfd_create,
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_mq_open,
    // Servers.
    libc::SYS_listen,
];

/// Calls that change files.
const CHANGING: &[libc::c_long] = &[
    libc::SYS_mknodat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    new::FCHMODAT2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    new::SETXATTRAT,
    new::REMOVEXATTRAT,
    new::FILE_SETATTR,
    libc::SYS_utimensat,
];

/// Calls that only a server may make.
const SERVING: &[libc::c_long] = &[libc::SYS_accept, libc::SYS_accept4];

/// More of the first kind, which newer processors' ABIs don't have.
#[cfg(target_arch = "x86_64")]
const FORBIDDEN_OLD: &[libc::c_long] = &[
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
];
/// See above.
#[cfg(not(target_arch = "x86_64"))]
const FORBIDDEN_OLD: &[libc::c_long] = &[];

/// More that change files.
#[cfg(target_arch = "x86_64")]
const OLD_CHANGING: &[libc::c_long] = &[
    libc::SYS_creat,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_utime,
    libc::SYS_utimes,
    libc::SYS_futimesat,
];
/// See above.
#[cfg(target_arch = "aarch64")]
const OLD_CHANGING: &[libc::c_long] = &[libc::SYS_renameat];
/// See above.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OLD_CHANGING: &[libc::c_long] = &[];

/// Calls that open files, and which argument has the flags.
#[cfg(target_arch = "x86_64")]
const OPEN: &[(libc::c_long, u32)] = &[(libc::SYS_open, 1), (libc::SYS_openat, 2)];
/// See above.
#[cfg(not(target_arch = "x86_64"))]
const OPEN: &[(libc::c_long, u32)] = &[(libc::SYS_openat, 2)];

/// Flags of opening that write or create. (`O_TMPFILE` comes with one of them.)
const WRITING: libc::c_int = libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC;

/// Requests to devices and open files that a server makes: whether it would have to wait, and what a terminal is. Others
/// change files, or type on the terminal at which it was started. (Their width differs between C libraries.)
const REQUESTS: [u32; 6] = [
    libc::FIONBIO as u32,
    libc::FIONREAD as u32,
    libc::FIOCLEX as u32,
    libc::FIONCLEX as u32,
    libc::TCGETS as u32,
    libc::TIOCGWINSZ as u32,
];

/// Calls that send, and which argument has the flags.
const SEND: [(libc::c_long, u32); 3] = [
    (libc::SYS_sendto, 3),
    (libc::SYS_sendmsg, 2),
    (libc::SYS_sendmmsg, 3),
];

/// The address families of sockets that a client may use: the Internet, and the kernel's own tables of
/// addresses. No local ones: servers of this machine, the daemon itself among them, believe that who
/// connects to them is one of their users. The C library then asks name servers by itself.
const SOCKET_FAMILIES: [libc::c_int; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// The address family of pairs of sockets, by which its threads wake each other.
const PAIR_FAMILIES: [libc::c_int; 1] = [libc::AF_UNIX];

/// Restricts this thread, and those that it starts, permanently, as this file says; and prevents them
/// from gaining privileges (`no_new_privs`). To be called before there are other threads.
pub fn restrict_network_program() -> io::Result<()> {
    restrict(Role::Client)
}

/// The same for a server, which listens already. It connects by TCP, or to local sockets only.
pub fn restrict_server(connects_by_tcp: bool) -> io::Result<()> {
    restrict(Role::Server { connects_by_tcp })
}

/// Only keeps this thread, and those and programs that it starts, from changing modes, owners, times, attributes and
/// names of files, and from gaining privileges.
pub fn restrict_changes() -> io::Result<()> {
    restrict(Role::Starter)
}

/// What a program is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Client,
    Server {
        connects_by_tcp: bool,
    },
    /// It starts programs.
    Starter,
}

fn restrict(role: Role) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    install(&program(std::process::id(), role))
}

/// The verdict on a server's new socket.
fn server_sockets(connects_by_tcp: bool) -> Vec<sock_filter> {
    let allow = give(libc::SECCOMP_RET_ALLOW);
    let refuse = fail(libc::EAFNOSUPPORT);
    let unix = libc::AF_UNIX.unsigned_abs();
    let mut part = vec![load(argument(0)), unless(libc::BPF_JEQ, unix, 1), allow];
    // A stream, with or without flags, whose protocol is TCP: not multipath TCP, for one, of which Landlock knows nothing.
    let stream = libc::SOCK_STREAM.unsigned_abs();
    let flags = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK).unsigned_abs();
    let tcp = [
        load(argument(1)),
        unless(libc::BPF_JSET, !(stream | flags), 1),
        refuse,
        skip_if(libc::BPF_JSET, stream),
        refuse,
        load(argument(2)),
        unless(libc::BPF_JEQ, 0, 1),
        allow,
        unless(libc::BPF_JEQ, libc::IPPROTO_TCP.unsigned_abs(), 1),
        allow,
        refuse,
    ];
    if connects_by_tcp {
        for family in [libc::AF_INET, libc::AF_INET6] {
            part.push(unless(libc::BPF_JEQ, family.unsigned_abs(), tcp.len()));
            part.extend(tcp);
        }
    }
    part.push(refuse);
    part
}

/// The filter program for the process with this id.
fn program(own: u32, role: Role) -> Vec<sock_filter> {
    let Some(native) = NATIVE else {
        return Vec::new();
    };
    let mut program = vec![
        load(ARCHITECTURE),
        skip_if(libc::BPF_JEQ, native),
        fail(libc::ENOSYS),
        load(NUMBER),
    ];
    #[cfg(target_arch = "x86_64")]
    program.extend([
        unless(libc::BPF_JGE, X32_SYSCALL_BIT, 1),
        fail(libc::ENOSYS),
    ]);
    let missing = MISSING.iter().map(|number| (*number, libc::ENOSYS));
    let mut forbidden = [CHANGING, OLD_CHANGING].concat();
    if role != Role::Starter {
        forbidden.extend([FORBIDDEN, FORBIDDEN_OLD].concat());
    }
    if role == Role::Client {
        forbidden.extend(SERVING);
    }
    let forbidden = forbidden.into_iter().map(|number| (number, libc::EPERM));
    for (number, error) in missing.chain(forbidden) {
        program.extend([unless(libc::BPF_JEQ, number as u32, 1), fail(error)]);
    }
    let allow = give(libc::SECCOMP_RET_ALLOW);
    if role == Role::Starter {
        program.push(allow);
        return program;
    }
    let refuse = fail(libc::EPERM);
    let mut on = |number: libc::c_long, part: &[sock_filter]| {
        program.push(unless(libc::BPF_JEQ, number as u32, part.len()));
        program.extend(part);
    };
    // New threads, but no processes.
    let thread = libc::CLONE_THREAD.unsigned_abs();
    on(
        libc::SYS_clone,
        &[
            load(argument(0)),
            unless(libc::BPF_JSET, thread, 1),
            allow,
            refuse,
        ],
    );
    // Signals to itself, as of `abort'.
    on(
        libc::SYS_tgkill,
        &[
            load(argument(0)),
            unless(libc::BPF_JEQ, own, 1),
            allow,
            refuse,
        ],
    );
    // Limits of its own, but of no other process.
    on(
        libc::SYS_prlimit64,
        &[
            load(argument(0)),
            unless(libc::BPF_JEQ, 0, 1),
            allow,
            unless(libc::BPF_JEQ, own, 1),
            allow,
            refuse,
        ],
    );
    let without = |index: u32, flags: libc::c_int| {
        let flags = flags.unsigned_abs();
        let is_set = unless(libc::BPF_JSET, flags, 1);
        [load(argument(index)), is_set, refuse, allow]
    };
    for (number, index) in OPEN {
        on(*number, &without(*index, WRITING));
    }
    if let Role::Server { connects_by_tcp } = role {
        on(libc::SYS_socket, &server_sockets(connects_by_tcp));
        let mut requests = vec![load(argument(1))];
        for request in REQUESTS {
            requests.extend([unless(libc::BPF_JEQ, request, 1), allow]);
        }
        requests.push(fail(libc::ENOTTY));
        on(libc::SYS_ioctl, &requests);
        // It connects, too, and Landlock isn't asked.
        for (number, index) in SEND {
            on(number, &without(index, libc::MSG_FASTOPEN));
        }
    } else {
        on(libc::SYS_socket, &only_families(&SOCKET_FAMILIES));
    }
    on(libc::SYS_socketpair, &only_families(&PAIR_FAMILIES));
    program.push(allow);
    program
}

#[cfg(test)]
mod tests {
    use super::super::program::simulation::verdict;
    use super::*;

    const fn error(number: libc::c_int) -> u32 {
        libc::SECCOMP_RET_ERRNO | number.unsigned_abs()
    }

    #[test]
    fn calls_of_each_kind_get_their_verdict() {
        let Some(native) = NATIVE else { return };
        let program = program(42, Role::Client);
        let ask = |number: libc::c_long, arguments: [libc::c_int; 3]| {
            let arguments = arguments.map(|argument| argument as u32);
            verdict(&program, native, number as u32, &arguments)
        };
        let allowed = libc::SECCOMP_RET_ALLOW;
        for number in MISSING {
            assert_eq!(ask(*number, [0; 3]), error(libc::ENOSYS));
        }
        let others = CHANGING.iter().chain(OLD_CHANGING).chain(SERVING);
        for number in FORBIDDEN.iter().chain(FORBIDDEN_OLD).chain(others) {
            assert_eq!(ask(*number, [0; 3]), error(libc::EPERM));
        }
        let threads = libc::CLONE_VM | libc::CLONE_THREAD;
        assert_eq!(ask(libc::SYS_clone, [threads, 0, 0]), allowed);
        assert_eq!(
            ask(libc::SYS_clone, [libc::SIGCHLD, 0, 0]),
            error(libc::EPERM)
        );
        assert_eq!(ask(libc::SYS_tgkill, [42, 43, 6]), allowed);
        assert_eq!(ask(libc::SYS_tgkill, [1, 1, 9]), error(libc::EPERM));
        for flags in [libc::O_RDONLY, libc::O_CLOEXEC | libc::O_DIRECTORY] {
            assert_eq!(ask(libc::SYS_openat, [0, 0, flags]), allowed);
        }
        for flags in [
            libc::O_WRONLY,
            libc::O_RDWR,
            libc::O_CREAT,
            libc::O_TRUNC,
            libc::O_TMPFILE | libc::O_RDWR,
        ] {
            assert_eq!(ask(libc::SYS_openat, [0, 0, flags]), error(libc::EPERM));
        }
        assert_eq!(ask(libc::SYS_socketpair, [libc::AF_UNIX, 0, 0]), allowed);
        assert_eq!(ask(libc::SYS_socket, [libc::AF_INET6, 0, 0]), allowed);
        for family in [libc::AF_UNIX, libc::AF_VSOCK, libc::AF_ALG, libc::AF_PACKET] {
            let socket = ask(libc::SYS_socket, [family, 0, 0]);
            assert_eq!(socket, error(libc::EAFNOSUPPORT));
        }
        assert_eq!(ask(libc::SYS_read, [0; 3]), allowed);
        assert_eq!(
            verdict(&program, 0, libc::SYS_read as u32, &[]),
            error(libc::ENOSYS)
        );
    }

    #[test]
    fn a_server_may_accept_and_connect_by_tcp_and_change_nothing() {
        let Some(native) = NATIVE else { return };
        let allowed = libc::SECCOMP_RET_ALLOW;
        for connects_by_tcp in [true, false] {
            let program = program(42, Role::Server { connects_by_tcp });
            let ask = |number: libc::c_long, arguments: [libc::c_int; 4]| {
                let arguments = arguments.map(|argument| argument as u32);
                verdict(&program, native, number as u32, &arguments)
            };
            for number in SERVING {
                assert_eq!(ask(*number, [0; 4]), allowed);
            }
            let forbidden = FORBIDDEN.iter().chain(FORBIDDEN_OLD);
            for number in forbidden.chain(CHANGING).chain(OLD_CHANGING) {
                assert_eq!(ask(*number, [0; 4]), error(libc::EPERM));
            }
            assert_eq!(ask(libc::SYS_openat, [0, 0, libc::O_RDONLY, 0]), allowed);
            let open = ask(libc::SYS_openat, [0, 0, libc::O_RDWR, 0]);
            assert_eq!(open, error(libc::EPERM));
            let process = ask(libc::SYS_clone, [libc::SIGCHLD, 0, 0, 0]);
            assert_eq!(process, error(libc::EPERM));
            for (process, verdict) in [(0, allowed), (42, allowed), (1, error(libc::EPERM))] {
                assert_eq!(ask(libc::SYS_prlimit64, [process, 0, 0, 0]), verdict);
            }
            let socket = |family, kind, protocol| {
                ask(libc::SYS_socket, [family, kind, protocol, 0]) == allowed
            };
            let (stream, cloexec) = (libc::SOCK_STREAM, libc::SOCK_CLOEXEC);
            assert!(socket(libc::AF_UNIX, stream | cloexec, 0));
            for family in [libc::AF_INET, libc::AF_INET6] {
                assert_eq!(socket(family, stream | cloexec, 0), connects_by_tcp);
                assert_eq!(socket(family, stream, libc::IPPROTO_TCP), connects_by_tcp);
                assert!(!socket(family, stream, libc::IPPROTO_MPTCP));
                for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET, 0] {
                    assert!(!socket(family, kind | cloexec, 0));
                }
            }
            for family in [libc::AF_PACKET, libc::AF_NETLINK, libc::AF_VSOCK] {
                assert!(!socket(family, stream, 0));
            }
            let request = |request: libc::c_int| ask(libc::SYS_ioctl, [1, request, 0, 0]);
            assert_eq!(request(libc::FIONBIO as libc::c_int), allowed);
            assert_eq!(request(libc::TIOCSTI as libc::c_int), error(libc::ENOTTY));
            for (flags, verdict) in [
                (libc::MSG_NOSIGNAL, allowed),
                (libc::MSG_FASTOPEN, error(libc::EPERM)),
            ] {
                assert_eq!(ask(libc::SYS_sendto, [3, 0, 0, flags]), verdict);
                assert_eq!(ask(libc::SYS_sendmsg, [3, 0, flags, 0]), verdict);
            }
        }
    }

    #[test]
    fn what_starts_programs_changes_no_files() {
        let Some(native) = NATIVE else { return };
        let program = program(42, Role::Starter);
        let ask = |number: &libc::c_long| verdict(&program, native, *number as u32, &[0; 4]);
        for number in CHANGING.iter().chain(OLD_CHANGING) {
            assert_eq!(ask(number), error(libc::EPERM));
        }
        for number in [libc::SYS_execve, libc::SYS_clone, libc::SYS_openat] {
            assert_eq!(ask(&number), libc::SECCOMP_RET_ALLOW);
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_kernels_third_kind_of_calls_is_refused() {
        let x32 = X32_SYSCALL_BIT | libc::SYS_read as u32;
        let verdict = verdict(&program(42, Role::Client), AUDIT_ARCH_X86_64, x32, &[]);
        assert_eq!(verdict, error(libc::ENOSYS));
    }
}
