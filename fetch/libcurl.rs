//! What uses of libcurl have in common: those for downloads, and the errors of all.

use std::time::Duration;

use curl::Error;

use crate::proxy;

/// How downloads name themselves, as Guix: some servers refuse those without a known name.
pub const DOWNLOAD_AGENT: &str = "GNU Guile";
/// How long connecting may take for a download.
pub const DOWNLOAD_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A download that brings nothing for so long is broken.
pub const DOWNLOAD_SILENCE: Duration = Duration::from_secs(60);

/// Whether a transfer broke off, for which another attempt may be better.
pub fn is_broken_off(error: &Error) -> bool {
    error.is_partial_file()
        || error.is_recv_error()
        || error.is_send_error()
        || error.is_got_nothing()
        || error.is_http2_error()
        || error.is_http2_stream_error()
}

/// The most exact words for an error of a transfer from `url`. If there is no way to the server, they
/// name the proxy, which may be why.
pub fn reason(error: &Error, url: &str) -> String {
    let text = match error.extra_description() {
        Some(text) if !text.is_empty() => text.trim_end(),
        _ => error.description(),
    };
    let no_way = error.is_couldnt_connect()
        || error.is_couldnt_resolve_proxy()
        || error.is_operation_timedout()
        || text.contains("CONNECT");
    match proxy::of(url).filter(|_| no_way) {
        Some((variable, proxy)) => format!("{text} (`{variable}' is `{proxy}')"),
        None => text.to_owned(),
    }
}
