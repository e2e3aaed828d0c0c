//! Numbers of system calls and ABIs that `libc` doesn't have: of calls that are newer than it, and of
//! the processor's 32-bit ABI.
//!
//! They are named as in the kernel's headers (`__NR_add_key` is `ADD_KEY`), with which
//! `tests/configure/system-calls.sh` compares them.

#[cfg(target_arch = "x86_64")]
pub use x86::*;

#[cfg(target_arch = "aarch64")]
pub use arm64::*;

/// Calls that are newer than 2019, which have the same number on each processor.
pub mod new {
    use libc::c_long;

    pub const IO_URING_SETUP: c_long = 425;
    pub const IO_URING_ENTER: c_long = 426;
    pub const IO_URING_REGISTER: c_long = 427;
    pub const QUOTACTL_FD: c_long = 443;
    pub const FCHMODAT2: c_long = 452;
    pub const SETXATTRAT: c_long = 463;
    pub const REMOVEXATTRAT: c_long = 466;
    pub const OPEN_TREE_ATTR: c_long = 467;
    pub const FILE_SETATTR: c_long = 469;
}

/// x86-64, and its 32-bit ABI.
#[cfg(target_arch = "x86_64")]
mod x86 {
    /// In `linux/audit.h`, like all of this name.
    pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
    pub const AUDIT_ARCH_I386: u32 = 0x4000_0003;
    /// From this number on, calls belong to another ABI, `x32`, which nobody uses.
    pub const X32_SYSCALL_BIT: u32 = 0x4000_0000;

    /// `asm/unistd_32.h`.
    pub mod i386 {
        use libc::c_long;

        pub const ADD_KEY: c_long = 286;
        pub const REQUEST_KEY: c_long = 287;
        pub const KEYCTL: c_long = 288;
        pub const USERFAULTFD: c_long = 374;
        pub const INIT_MODULE: c_long = 128;
        pub const FINIT_MODULE: c_long = 350;
        pub const DELETE_MODULE: c_long = 129;
        pub const KEXEC_LOAD: c_long = 283;
        pub const BPF: c_long = 357;
        pub const PERF_EVENT_OPEN: c_long = 336;
        pub const OPEN_BY_HANDLE_AT: c_long = 342;
        pub const SOCKET: c_long = 359;
        pub const SOCKETPAIR: c_long = 360;
        pub const SOCKETCALL: c_long = 102;
    }
}

/// 64-bit ARM, and its 32-bit ABI.
#[cfg(target_arch = "aarch64")]
mod arm64 {
    pub const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
    pub const AUDIT_ARCH_ARM: u32 = 0x4000_0028;

    /// `asm/unistd-eabi.h`.
    pub mod arm {
        use libc::c_long;

        pub const ADD_KEY: c_long = 309;
        pub const REQUEST_KEY: c_long = 310;
        pub const KEYCTL: c_long = 311;
        pub const USERFAULTFD: c_long = 388;
        pub const INIT_MODULE: c_long = 128;
        pub const FINIT_MODULE: c_long = 379;
        pub const DELETE_MODULE: c_long = 129;
        pub const KEXEC_LOAD: c_long = 347;
        pub const KEXEC_FILE_LOAD: c_long = 401;
        pub const BPF: c_long = 386;
        pub const PERF_EVENT_OPEN: c_long = 364;
        pub const OPEN_BY_HANDLE_AT: c_long = 371;
        pub const SOCKET: c_long = 281;
        pub const SOCKETPAIR: c_long = 288;
    }
}
