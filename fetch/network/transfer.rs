//! One transfer by libcurl: how it is set up, and what becomes of the bytes that it brings.
//!
//! libcurl follows no redirections by itself: each is a transfer of its own, after its address was
//! looked at. So user and password of a URL are never sent to any other server.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use curl::easy::{Easy2, Handler, HttpVersion, List, WriteError};
use substitutes::network::{ErrorKind, NetworkError};

use super::address::{server, without_password};
use super::head::Head;
use super::stream::Stream;
use crate::libcurl::{is_broken_off, reason};

/// How many redirections are followed.
const REDIRECTIONS: u32 = 10;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Fewer bytes in a second are too slow.
const LOW_SPEED: u32 = 100;
/// The longest header of a response, in bytes.
const HEAD_LIMIT: usize = 64 << 10;
/// How many bytes of a body that nobody wants are read, so that the connection can be used again.
const UNWANTED_LIMIT: usize = 64 << 10;
/// How many bytes are received at once.
const RECEIVED: usize = 64 << 10;
/// How this program names itself.
const USER_AGENT: &str = concat!("guix-fetch/", env!("GUIX_VERSION"));

/// What is known of a transfer to a stream while it runs.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many bytes of the body have gone into the stream, those of earlier transfers included.
    pub received: u64,
    /// Whether the server delivers what it was asked for.
    pub is_accepted: bool,
    /// The header.
    pub head: Head,
}

/// What becomes of the body.
pub enum Sink {
    /// It is kept, if it isn't longer than that.
    Memory { limit: usize, body: Vec<u8> },
    /// It goes into a stream, if it is what was asked for: from byte `from` on.
    Stream {
        stream: Arc<Stream>,
        from: u64,
        tally: Rc<RefCell<Tally>>,
    },
    /// It is thrown away.
    Nowhere,
}

/// What libcurl calls.
pub struct Transfer {
    pub head: Head,
    head_size: usize,
    pub sink: Sink,
    unwanted: usize,
    /// Why the transfer was ended here.
    pub refusal: Option<NetworkError>,
}

impl Handler for Transfer {
    fn header(&mut self, line: &[u8]) -> bool {
        self.head_size += line.len();
        if self.head_size > HEAD_LIMIT {
            let text = "the header of the server's answer is too long";
            return self.refuse(ErrorKind::Protocol, text);
        }
        self.head.add(line);
        true
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        let status = self.head.status;
        let is_wanted = match &mut self.sink {
            Sink::Memory { limit, body } if status == 200 => {
                if body.len() + data.len() > *limit {
                    self.refuse(ErrorKind::TooLarge, "the server's answer is too long");
                    return Ok(0);
                }
                body.extend_from_slice(data);
                true
            }
            Sink::Stream {
                stream,
                from,
                tally,
            } => {
                let mut tally = tally.borrow_mut();
                if !tally.is_accepted {
                    tally.is_accepted = delivers(&self.head, *from);
                    tally.head = self.head.clone();
                }
                if tally.is_accepted {
                    if !stream.push(data) {
                        return Err(WriteError::Pause);
                    }
                    tally.received += data.len() as u64;
                }
                tally.is_accepted
            }
            _ => false,
        };
        if !is_wanted {
            self.unwanted += data.len();
            if self.unwanted > UNWANTED_LIMIT {
                return Ok(0); // the connection isn't worth it
            }
        }
        Ok(data.len())
    }
}

impl Transfer {
    /// Always `false`, with which [`Handler::header`] ends the transfer.
    fn refuse(&mut self, kind: ErrorKind, text: &str) -> bool {
        self.refusal = Some(NetworkError::new(kind, text));
        false
    }
}

/// Whether a response is the body from a byte on.
pub fn delivers(head: &Head, from: u64) -> bool {
    match head.status {
        200 => from == 0,
        206 => from > 0 && head.range_start == Some(from),
        _ => false,
    }
}

/// How long a server may take.
pub enum Patience {
    /// For everything.
    Whole(Duration),
    /// Until it sends something; it may also be too slow for so long.
    Silence(Duration),
}

/// A transfer that can be given to libcurl.
pub fn prepare(url: &str, sink: Sink, patience: Patience) -> Result<Easy2<Transfer>, curl::Error> {
    let is_stream = matches!(sink, Sink::Stream { .. });
    let mut easy = Easy2::new(Transfer {
        head: Head::default(),
        head_size: 0,
        sink,
        unwanted: 0,
        refusal: None,
    });
    easy.url(url)?;
    easy.useragent(USER_AGENT)?;
    easy.follow_location(false)?;
    easy.connect_timeout(CONNECT_TIMEOUT)?;
    easy.tcp_keepalive(true)?;
    // Signatures and hashes say what is right, as in Guix, whose servers may have any certificate.
    easy.ssl_verify_peer(false)?;
    easy.ssl_verify_host(false)?;
    match patience {
        Patience::Whole(time) => easy.timeout(time)?,
        Patience::Silence(time) => {
            easy.low_speed_limit(LOW_SPEED)?;
            easy.low_speed_time(time.max(Duration::from_secs(1)))?;
        }
    }
    if is_stream {
        // Its own connection: on a shared one, a transfer that pauses holds up the others, or its
        // bytes pile up in memory.
        easy.http_version(HttpVersion::V11)?;
        easy.buffer_size(RECEIVED)?;
    } else {
        easy.http_version(HttpVersion::V2TLS)?;
        // Better wait for a connection that many can share than open many.
        easy.pipewait(url.len() > 5 && url.as_bytes()[..5].eq_ignore_ascii_case(b"https"))?;
    }
    Ok(easy)
}

/// Asks for the rest of a body only, if it is still the same.
pub fn ask_for_rest(
    easy: &mut Easy2<Transfer>,
    from: u64,
    validator: &str,
) -> Result<(), curl::Error> {
    easy.range(&format!("{from}-"))?;
    let mut headers = List::new();
    headers.append(&format!("If-Range: {validator}"))?;
    easy.http_headers(headers)
}

/// Where a response leads to, if it is a redirection, and it may be followed.
pub fn redirection(
    easy: &Easy2<Transfer>,
    url: &str,
    redirections: &mut u32,
) -> Option<Result<String, NetworkError>> {
    if !matches!(easy.get_ref().head.status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let target = easy.redirect_url().ok()??;
    *redirections += 1;
    if *redirections > REDIRECTIONS {
        let text = "too many redirections";
        return Some(Err(described(ErrorKind::Protocol, url, text)));
    }
    Some(match server(target) {
        Ok(_) => Ok(target.to_owned()),
        Err(error) => {
            let text = format!("redirection to {}: {error}", without_password(target));
            Err(described(error.kind(), url, &text))
        }
    })
}

/// Whether a transfer was ended here because nobody wants its body, which is long; the status is
/// the answer.
pub fn has_answer(error: &curl::Error, easy: &Easy2<Transfer>) -> bool {
    let transfer = easy.get_ref();
    error.is_write_error() && transfer.refusal.is_none() && transfer.head.status != 0
}

/// What libcurl's error means; `easy` is the transfer, which has ended.
pub fn failure(error: &curl::Error, easy: &Easy2<Transfer>, url: &str) -> NetworkError {
    if let Some(refusal) = &easy.get_ref().refusal {
        return described(refusal.kind(), url, refusal.text());
    }
    // libcurl has one code for a server that can't be connected to in time and one that is silent.
    let was_connected = !easy.pretransfer_time().unwrap_or_default().is_zero();
    let is_broken = is_broken_off(error);
    let kind = if error.is_couldnt_resolve_host() || error.is_couldnt_resolve_proxy() {
        ErrorKind::HostNotFound
    } else if error.is_ssl_connect_error()
        || error.is_peer_failed_verification()
        || error.is_ssl_cipher()
        || error.is_ssl_certproblem()
    {
        ErrorKind::Tls
    } else if error.is_couldnt_connect()
        || !was_connected && (is_broken || error.is_operation_timedout())
    {
        ErrorKind::Connect
    } else if error.is_operation_timedout() {
        ErrorKind::Timeout
    } else if is_broken {
        ErrorKind::Interrupted
    } else if error.is_url_malformed() {
        ErrorKind::Refused
    } else {
        ErrorKind::Protocol
    };
    described(kind, url, &reason(error, url))
}

/// An error whose text begins with the URL.
pub fn described(kind: ErrorKind, url: &str, text: &str) -> NetworkError {
    NetworkError::new(kind, format!("{}: {text}", without_password(url)))
}
