//! Owned s-expressions of libgcrypt.
//!
//! Every operation on them is iterative inside libgcrypt, so nesting doesn't use stack space; their
//! length is limited here. The syntax is that of Rivest's draft on s-expressions; they are printed
//! in libgcrypt's "advanced" form.

use std::ffi::{CStr, c_char, c_int};
use std::fmt;
use std::ptr::{self, NonNull};

use crate::error::{Error, Result};
use crate::sys::{self, gcry_sexp};

/// The longest text that is parsed, in bytes.  An RSA key of 16,384 bits takes about 20 KiB.
pub(crate) const MAXIMUM_LENGTH: usize = 1 << 20;

/// An s-expression; immutable.
pub struct Sexp(NonNull<gcry_sexp>);

// SAFETY: a gcry_sexp_t is a plain allocation that no function called here changes, and libgcrypt
// keeps no thread-local state for it.
unsafe impl Send for Sexp {}
// SAFETY: as above: only functions that read are called on a shared one.
unsafe impl Sync for Sexp {}

impl Drop for Sexp {
    fn drop(&mut self) {
        // SAFETY: the pointer came from libgcrypt, is owned by us, and is released once.
        unsafe { sys::gcry_sexp_release(self.0.as_ptr()) }
    }
}

impl Sexp {
    /// Parses an s-expression in advanced or canonical form.
    ///
    /// # Errors
    /// The text is longer than 1 MiB, or libgcrypt cannot read it.
    pub fn parse(text: impl AsRef<[u8]>) -> Result<Sexp> {
        let text = text.as_ref();
        if text.len() > MAXIMUM_LENGTH {
            return Err(Error::TooLong(text.len()));
        }
        sys::initialise();
        let mut sexp = ptr::null_mut();
        let mut position = 0;
        // SAFETY: the buffer is valid for the length that is passed, and both results are pointers
        // to locals.
        let code = unsafe {
            sys::gcry_sexp_sscan(
                &mut sexp,
                &mut position,
                text.as_ptr().cast::<c_char>(),
                text.len(),
            )
        };
        match NonNull::new(sexp) {
            Some(sexp) if code == 0 => Ok(Sexp(sexp)),
            Some(_) | None if code != 0 => Err(Error::Syntax {
                reason: sys::message(code),
                position,
            }),
            // libgcrypt represents `()' by a null pointer.
            _ => Err(Error::Shape("empty s-expression")),
        }
    }

    /// Takes ownership of the result of a libgcrypt function; null is `None`.
    pub(crate) fn from_raw(raw: *mut gcry_sexp) -> Option<Sexp> {
        NonNull::new(raw).map(Sexp)
    }

    pub(crate) fn as_raw(&self) -> *mut gcry_sexp {
        self.0.as_ptr()
    }

    /// The canonical form: two s-expressions are equal if and only if it is equal.
    #[must_use]
    pub fn to_canonical(&self) -> Vec<u8> {
        self.print(sys::GCRYSEXP_FMT_CANON)
    }

    /// The advanced form, as libgcrypt (and therefore Guix) prints it.
    #[must_use]
    pub fn to_advanced(&self) -> Vec<u8> {
        self.print(sys::GCRYSEXP_FMT_ADVANCED)
    }

    fn print(&self, format: c_int) -> Vec<u8> {
        // SAFETY: a null buffer asks for the size needed.
        let needed = unsafe { sys::gcry_sexp_sprint(self.as_raw(), format, ptr::null_mut(), 0) };
        let mut buffer = vec![0u8; needed];
        // SAFETY: the buffer has the length that is passed.
        let written = unsafe {
            sys::gcry_sexp_sprint(
                self.as_raw(),
                format,
                buffer.as_mut_ptr().cast(),
                buffer.len(),
            )
        };
        // Strip the NUL that ends the advanced form; the size includes it.
        buffer.truncate(written);
        buffer
    }

    /// The first list in this s-expression, at any depth, that starts with `token`.
    #[must_use]
    pub fn find(&self, token: &CStr) -> Option<Sexp> {
        // SAFETY: both pointers are valid; length 0 means that the token is NUL-terminated.
        Sexp::from_raw(unsafe { sys::gcry_sexp_find_token(self.as_raw(), token.as_ptr(), 0) })
    }

    /// How many elements the list has.
    #[must_use]
    pub fn len(&self) -> usize {
        // SAFETY: the pointer is valid.
        usize::try_from(unsafe { sys::gcry_sexp_length(self.as_raw()) }).unwrap_or(0)
    }

    /// Whether the list has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `index`, if it is a list.
    #[must_use]
    pub fn list_at(&self, index: usize) -> Option<Sexp> {
        let index = c_int::try_from(index).ok()?;
        // SAFETY: the pointer is valid; an index out of range gives null.
        Sexp::from_raw(unsafe { sys::gcry_sexp_nth(self.as_raw(), index) })
    }

    /// The bytes of element `index`, if it is an atom.
    #[must_use]
    pub fn atom_at(&self, index: usize) -> Option<&[u8]> {
        let index = c_int::try_from(index).ok()?;
        let mut length = 0;
        // SAFETY: the pointers are valid; the result is null or points into the s-expression,
        // which is never changed and lives as long as the borrow.
        unsafe {
            let data = sys::gcry_sexp_nth_data(self.as_raw(), index, &mut length);
            (!data.is_null()).then(|| std::slice::from_raw_parts(data.cast::<u8>(), length))
        }
    }
}

impl fmt::Display for Sexp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.to_advanced()))
    }
}

impl fmt::Debug for Sexp {
    /// Doesn't show the content: it may be a secret key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sexp(..)")
    }
}
