//! The address of a daemon.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use protocol::client::Address;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = Address::parse(OsStr::from_bytes(data));
});
