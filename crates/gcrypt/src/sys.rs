//! The functions of libgcrypt that are used here, and the initialisation of the library.
//!
//! `tests/configure/gcrypt.sh` translates what follows into C and has the C compiler compare it with
//! `<gcrypt.h>`, so each type and each number here is written in a form that it understands.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Once;

/// An error code; 0 is success.
#[allow(non_camel_case_types)]
pub(crate) type gcry_error_t = c_uint;

/// An s-expression, of which only libgcrypt knows the inside.
#[allow(non_camel_case_types)]
#[repr(C)]
pub(crate) struct gcry_sexp {
    _inside: [u8; 0],
}

/// A pointer to an s-expression; null is the empty one.
#[allow(non_camel_case_types)]
pub(crate) type gcry_sexp_t = *mut gcry_sexp;

/// Of `enum gcry_ctl_cmds`.
const GCRYCTL_DISABLE_SECMEM: c_int = 37;
const GCRYCTL_INITIALIZATION_FINISHED: c_int = 38;
/// Of `enum gcry_sexp_format`.
pub(crate) const GCRYSEXP_FMT_CANON: c_int = 1;
pub(crate) const GCRYSEXP_FMT_ADVANCED: c_int = 3;

#[rustfmt::skip] // One declaration on each line.
unsafe extern "C" {
    fn gcry_check_version(wanted: *const c_char) -> *const c_char;
    fn gcry_control(command: c_int, ...) -> gcry_error_t;
    fn gcry_strerror(code: gcry_error_t) -> *const c_char;
    pub(crate) fn gcry_sexp_sscan(result: *mut gcry_sexp_t, position: *mut usize, text: *const c_char, length: usize) -> gcry_error_t;
    pub(crate) fn gcry_sexp_sprint(sexp: gcry_sexp_t, format: c_int, buffer: *mut c_void, length: usize) -> usize;
    pub(crate) fn gcry_sexp_release(sexp: gcry_sexp_t);
    pub(crate) fn gcry_sexp_find_token(list: gcry_sexp_t, token: *const c_char, length: usize) -> gcry_sexp_t;
    pub(crate) fn gcry_sexp_length(list: gcry_sexp_t) -> c_int;
    pub(crate) fn gcry_sexp_nth(list: gcry_sexp_t, index: c_int) -> gcry_sexp_t;
    pub(crate) fn gcry_sexp_nth_data(list: gcry_sexp_t, index: c_int, length: *mut usize) -> *const c_char;
    pub(crate) fn gcry_pk_genkey(key: *mut gcry_sexp_t, parameters: gcry_sexp_t) -> gcry_error_t;
    pub(crate) fn gcry_pk_sign(signature: *mut gcry_sexp_t, data: gcry_sexp_t, key: gcry_sexp_t) -> gcry_error_t;
    pub(crate) fn gcry_pk_verify(signature: gcry_sexp_t, data: gcry_sexp_t, key: gcry_sexp_t) -> gcry_error_t;
}

/// Initialises libgcrypt, once per process. Has to come before every other call of the library.
pub(crate) fn initialise() {
    static START: Once = Once::new();
    START.call_once(|| {
        // SAFETY: a null pointer requests no particular version and initialises the library; the
        // control commands take no argument but the terminating zero.
        unsafe {
            gcry_check_version(ptr::null());
            gcry_control(GCRYCTL_DISABLE_SECMEM, 0);
            gcry_control(GCRYCTL_INITIALIZATION_FINISHED, 0);
        }
    });
}

/// libgcrypt's message for an error code.
pub(crate) fn message(code: gcry_error_t) -> String {
    // SAFETY: gcry_strerror returns a string that is never freed, for every code.
    let text = unsafe { CStr::from_ptr(gcry_strerror(code)) };
    text.to_string_lossy().into_owned()
}
