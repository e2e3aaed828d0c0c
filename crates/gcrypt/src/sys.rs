//! The raw bindings, and the initialisation of the library.

use std::ffi::CStr;
use std::ptr;
use std::sync::Once;

#[allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    dead_code,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub(crate) use bindings::*;

/// Initialises libgcrypt, once per process. Has to come before every other call of the library.
pub(crate) fn initialise() {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: a null pointer requests no particular version and initialises the library; the
        // control commands take no argument but the terminating zero.
        unsafe {
            gcry_check_version(ptr::null());
            gcry_control(gcry_ctl_cmds::GCRYCTL_DISABLE_SECMEM, 0);
            gcry_control(gcry_ctl_cmds::GCRYCTL_INITIALIZATION_FINISHED, 0);
        }
    });
}

/// libgcrypt's message for an error code.
pub(crate) fn message(code: gcry_error_t) -> String {
    // SAFETY: gcry_strerror returns a string that is never freed, for every code.
    let text = unsafe { CStr::from_ptr(gcry_strerror(code)) };
    text.to_string_lossy().into_owned()
}
