//! Transfers by HTTP, HTTPS and FTP, with libcurl.
//!
//! Redirections are followed here, one by one, so that none leads to a local file, for example, and
//! a URL's user and password go to its own host only. A transfer that breaks is resumed where it
//! ended, if the server still has the same file, as often as that brings any bytes. Certificates are
//! not checked, as the hash of what is downloaded is known.

use std::io;
use std::str;

use curl::easy::{Easy2, Handler, List, WriteError};

use super::output::Output;
use super::place::{keep_credentials, scheme};
use super::report::{self, Progress};
use crate::libcurl::{
    DOWNLOAD_AGENT, DOWNLOAD_CONNECT_TIMEOUT, DOWNLOAD_SILENCE, is_broken_off, reason,
};

const MAX_REDIRECTIONS: u32 = 20;
/// The most attempts to complete one transfer.
const MAX_ATTEMPTS: u32 = 100;
/// How much of a page that says what went wrong is read.
const MAX_ERROR_PAGE: u64 = 64 * 1024;
/// The longest header of a server that is kept.
const MAX_HEADER: usize = 1024;

/// Why a transfer failed.
#[derive(Debug)]
pub enum Failure {
    /// For a reason that another place may not have; the text is the whole message.
    Place(String),
    /// The file could not be written.
    Output(io::Error),
}

/// Transfers one file after another, into the same output.
pub struct Transfer {
    easy: Easy2<Receiver>,
}

/// What the attempts to complete one transfer know.
#[derive(Default)]
struct Attempts {
    count: u32,
    redirections: u32,
    /// Attempts since the last one that brought anything.
    fruitless: u32,
    /// Whether the file was put together from several responses.
    pieced: bool,
}

impl Transfer {
    /// Into this output.
    pub fn new(output: Output, progress: Progress) -> Transfer {
        let easy = Easy2::new(Receiver {
            output,
            progress,
            response: Response::default(),
            resuming: None,
            failure: None,
        });
        Transfer { easy }
    }

    /// The file.
    pub fn output(&mut self) -> &mut Output {
        &mut self.easy.get_mut().output
    }

    /// The bytes at `url`. Returns whether they are from one response, and not pieced together.
    pub fn fetch(&mut self, url: &str) -> Result<bool, Failure> {
        let mut attempts = Attempts::default();
        let mut current = url.to_owned();
        let receiver = self.easy.get_mut();
        receiver.progress.begin(url);
        receiver.resuming = None;
        receiver.response = Response::default();
        let ended = loop {
            attempts.count += 1;
            match self.attempt(&current, &mut attempts) {
                Ok(Next::Done) => break Ok(()),
                Ok(Next::Redirected(next)) => current = next,
                Ok(Next::Again) if attempts.count < MAX_ATTEMPTS => {
                    // Where it was redirected to may be valid for a moment only.
                    current = url.to_owned();
                }
                Ok(Next::Again) => {
                    let reason = format!("download failed {url:?}: broken {MAX_ATTEMPTS} times");
                    break Err(Failure::Place(reason));
                }
                Err(failure) => break Err(failure),
            }
        };
        let receiver = self.easy.get_mut();
        match ended {
            Ok(()) => {
                let size = receiver.output.size();
                receiver.progress.succeeded(size);
                Ok(!attempts.pieced)
            }
            Err(failure) => {
                receiver.progress.end();
                Err(failure)
            }
        }
    }

    fn attempt(&mut self, url: &str, attempts: &mut Attempts) -> Result<Next, Failure> {
        let failed = |reason: &str| Failure::Place(format!("download failed {url:?} {reason}"));
        let is_ftp = scheme(url).as_deref() == Some("ftp");
        let receiver = self.easy.get_mut();
        let resuming = receiver.resuming.clone();
        let before = match &resuming {
            Some(_) => receiver.output.size(),
            None => 0,
        };
        receiver.begin(is_ftp);
        let performed = self.configure(url, resuming.as_ref());
        let performed = performed.and_then(|()| self.easy.perform());
        let code = self.easy.response_code().unwrap_or(0);
        let receiver = self.easy.get_mut();
        if let Some(error) = receiver.failure.take() {
            return Err(Failure::Output(error));
        }
        let received = receiver.response.accepted;
        let now = if received {
            receiver.output.size()
        } else {
            before
        };
        let validator = receiver.response.validator();
        let is_success = is_ftp || matches!(code, 200 | 206);
        let is_cut = is_success && !receiver.response.is_whole(resuming.is_some());

        if performed.is_err() || is_cut {
            let error = performed.err();
            let reason = match &error {
                Some(error) => reason(error, url),
                None => "the answer ends too early".to_owned(),
            };
            let refused = receiver.response.refused;
            // A server that cannot go on where the transfer broke: from the start.
            let cannot_resume =
                |error: &curl::Error| error.is_range_error() || error.is_bad_download_resume();
            if resuming.is_some() && (refused || error.as_ref().is_some_and(cannot_resume)) {
                receiver.resuming = None;
                attempts.fruitless += 1;
                return match attempts.fruitless {
                    1 => Ok(Next::Again),
                    _ => Err(failed(&format!("({reason})"))),
                };
            }
            if !refused
                && error
                    .as_ref()
                    .is_none_or(|error| is_broken(error, received))
            {
                match now > before {
                    true => attempts.fruitless = 0,
                    false => attempts.fruitless += 1,
                }
                if attempts.fruitless < 2 {
                    receiver.progress.end();
                    report::line(&format!(
                        "download of {url:?} broke off: {reason}; going on"
                    ));
                    receiver.resuming = (now > 0).then_some(Resume { at: now, validator });
                    attempts.pieced |= now > 0;
                    return Ok(Next::Again);
                }
            }
            // The status says more than that too much of its page was there.
            if is_success || code == 0 || !refused {
                return Err(failed(&format!("({reason})")));
            }
        }
        match code {
            _ if is_success => Ok(Next::Done),
            301 | 302 | 303 | 307 | 308 => {
                let target = self.easy.redirect_url().ok().flatten().map(str::to_owned);
                let target = target.ok_or_else(|| failed("(redirection to nowhere)"))?;
                attempts.redirections += 1;
                attempts.count -= 1;
                if attempts.redirections > MAX_REDIRECTIONS {
                    return Err(failed("(too many redirections)"));
                }
                report::line(&format!("following redirection to `{target}'..."));
                match scheme(&target).as_deref() {
                    Some("http" | "https" | "ftp") => {
                        Ok(Next::Redirected(keep_credentials(url, target)))
                    }
                    _ => Err(failed(&format!("(redirection to {target:?})"))),
                }
            }
            // Nothing is left to send, or the file is shorter now.
            416 if resuming.is_some() => {
                self.easy.get_mut().resuming = None;
                attempts.fruitless += 1;
                match attempts.fruitless {
                    1 => Ok(Next::Again),
                    _ => Err(failed("416")),
                }
            }
            code => {
                let reason = &self.easy.get_ref().response.reason;
                Err(failed(&format!("{code} {reason:?}")))
            }
        }
    }

    fn configure(&mut self, url: &str, resuming: Option<&Resume>) -> Result<(), curl::Error> {
        let easy = &mut self.easy;
        // The connections stay.
        easy.reset();
        easy.useragent(DOWNLOAD_AGENT)?;
        easy.connect_timeout(DOWNLOAD_CONNECT_TIMEOUT)?;
        easy.low_speed_limit(1)?;
        easy.low_speed_time(DOWNLOAD_SILENCE)?;
        easy.ssl_verify_peer(false)?;
        easy.ssl_verify_host(false)?;
        easy.http_09_allowed(false)?;
        easy.progress(true)?;
        easy.url(url)?;
        if let Some(resume) = resuming {
            easy.range(&format!("{}-", resume.at))?;
            if let Some(validator) = &resume.validator {
                let mut headers = List::new();
                headers.append(&format!("If-Range: {validator}"))?;
                easy.http_headers(headers)?;
            }
        }
        Ok(())
    }
}

/// Whether another attempt may get further.
fn is_broken(error: &curl::Error, received: bool) -> bool {
    is_broken_off(error) || (error.is_operation_timedout() && received)
}

/// What follows an attempt.
enum Next {
    Done,
    Redirected(String),
    Again,
}

/// Where a transfer goes on.
#[derive(Clone)]
struct Resume {
    at: u64,
    /// What the file was known by: its entity tag or its date.
    validator: Option<String>,
}

/// What is known of the current response.
#[derive(Default)]
struct Response {
    /// Without status line, as in FTP.
    bare: bool,
    status: u32,
    reason: String,
    length: Option<u64>,
    tag: Option<String>,
    date: Option<String>,
    /// The start of the range that is sent.
    range: Option<u64>,
    /// Whether its header has ended.
    header_ended: bool,
    /// Whether its body is (a part of) the file.
    accepted: bool,
    /// Whether its body was too much, or the wrong part.
    refused: bool,
    skipped: u64,
}

impl Response {
    /// Whether a transfer that ended well is one: libcurl takes a header that is cut for an answer
    /// without a body, and a rest without a body would be none.
    fn is_whole(&self, resuming: bool) -> bool {
        self.bare || self.accepted || (self.header_ended && !resuming)
    }

    fn validator(&self) -> Option<String> {
        self.tag.clone().or_else(|| self.date.clone())
    }
}

/// Takes what arrives.
struct Receiver {
    output: Output,
    progress: Progress,
    response: Response,
    resuming: Option<Resume>,
    /// Why the output could not be written.
    failure: Option<io::Error>,
}

impl Receiver {
    fn begin(&mut self, bare: bool) {
        self.response = Response {
            bare,
            ..Response::default()
        };
    }

    /// The first bytes of a body: whether they are wanted, and where they belong.
    fn accept(&mut self) -> bool {
        let response = &mut self.response;
        let resume = self.resuming.as_ref().map(|resume| resume.at);
        let begins = match (response.bare, response.status, resume) {
            (true, _, Some(at)) => at,
            (true, _, None) | (false, 200, _) => 0,
            (false, 206, _) => match response.range {
                Some(start) if Some(start) == resume || start == 0 => start,
                _ => {
                    response.refused = true;
                    return false;
                }
            },
            _ => return false,
        };
        if begins == 0 {
            if let Err(error) = self.output.restart() {
                self.failure = Some(error);
                return false;
            }
        }
        response.accepted = true;
        response.length = response.length.map(|length| length.saturating_add(begins));
        true
    }
}

impl Handler for Receiver {
    fn header(&mut self, header: &[u8]) -> bool {
        let Ok(line) = str::from_utf8(&header[..header.len().min(MAX_HEADER)]) else {
            return true;
        };
        let line = line.trim_end();
        if self.response.bare {
            return true;
        }
        if line.starts_with("HTTP/") {
            // The responses of a proxy, and `100 Continue', come first.
            self.begin(false);
            let mut words = line.splitn(3, ' ').skip(1);
            let status = words.next().and_then(|word| word.parse().ok());
            self.response.status = status.unwrap_or(0);
            self.response.reason = words.next().unwrap_or_default().to_owned();
            return true;
        }
        self.response.header_ended |= line.is_empty();
        let Some((name, value)) = line.split_once(':') else {
            return true;
        };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => self.response.length = value.parse().ok(),
            // A weak tag does not vouch for each byte.
            "etag" if value.starts_with('"') => self.response.tag = Some(value.to_owned()),
            "last-modified" => self.response.date = Some(value.to_owned()),
            "content-range" => {
                let start = value
                    .strip_prefix("bytes ")
                    .and_then(|it| it.split_once('-'));
                self.response.range = start.and_then(|(start, _)| start.parse().ok());
            }
            _ => {}
        }
        true
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        if !self.response.accepted && !self.accept() {
            // The page that says what went wrong; any other return value ends the transfer.
            self.response.skipped += data.len() as u64;
            let is_enough = self.failure.is_some()
                || self.response.refused
                || self.response.skipped > MAX_ERROR_PAGE;
            self.response.refused |= is_enough;
            return Ok(if is_enough { 0 } else { data.len() });
        }
        if let Err(error) = self.output.write(data) {
            self.failure = Some(error);
            return Ok(0);
        }
        self.progress
            .received(self.output.size(), self.response.length);
        Ok(data.len())
    }

    fn progress(&mut self, total: f64, _: f64, _: f64, _: f64) -> bool {
        if self.response.bare && self.response.length.is_none() && total >= 1.0 {
            let before = self.resuming.as_ref().map_or(0, |resume| resume.at);
            self.response.length = Some(total as u64 + before);
        }
        true
    }
}
