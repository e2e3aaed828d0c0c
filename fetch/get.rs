//! `guix-fetch get URL`: the contents of a URL to standard output, for `guix-client download`.
//!
//! Nobody knows beforehand what the contents must be. So certificates are checked, with the system's
//! list of authorities, unless `--insecure` is given. How large the contents
//! are is told by a trace line on standard error before they begin, and why they can't be had as a
//! message there. It runs as the user, who asked for it, and gives up what it doesn't need: it can
//! write nothing but what is open already, and use no local sockets.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, bail};
use curl::easy::{Easy2, Handler, WriteError};
use formats::printable::printable;
use protocol::trace::Trace;
use system::{landlock, seccomp};

use crate::libcurl::{DOWNLOAD_AGENT, DOWNLOAD_CONNECT_TIMEOUT, DOWNLOAD_SILENCE, reason};

const MAX_REDIRECTIONS: u32 = 20;

/// What to get.
#[derive(clap::Args)]
pub struct Options {
    /// Do not check the server's certificate
    #[arg(long)]
    insecure: bool,
    /// The address
    url: String,
}

/// Writes the contents.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let url = &options.url;
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    let scheme = scheme.unwrap_or_default().to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https" | "ftp") {
        bail!("{}: not an address of http, https or ftp", printable(url));
    }
    curl::init();
    landlock::confine(Some(&[Path::new("/dev")]))
        .and_then(|_| seccomp::restrict_downloader())
        .context("cannot give up privileges")?;
    let mut easy = Easy2::new(Output {
        url: url.to_owned(),
        length: None,
        begun: false,
        failure: None,
    });
    let performed = configure(&mut easy, url, !options.insecure).and_then(|()| easy.perform());
    if let Some(error) = easy.get_mut().failure.take() {
        return Err(error).context("writing to standard output");
    }
    if let Err(error) = performed {
        bail!("{}: {}", printable(url), printable(&reason(&error, url)));
    }
    // Of an empty file nothing was written.
    easy.get_mut().begin();
    io::stdout().flush().context("writing to standard output")
}

fn configure(easy: &mut Easy2<Output>, url: &str, secure: bool) -> Result<(), curl::Error> {
    easy.url(url)?;
    easy.useragent(DOWNLOAD_AGENT)?;
    easy.fail_on_error(true)?;
    // libcurl follows to http, https, ftp and ftps only, and sends passwords to no other host.
    easy.follow_location(true)?;
    easy.max_redirections(MAX_REDIRECTIONS)?;
    easy.connect_timeout(DOWNLOAD_CONNECT_TIMEOUT)?;
    easy.low_speed_limit(1)?;
    easy.low_speed_time(DOWNLOAD_SILENCE)?;
    easy.ssl_verify_peer(secure)?;
    easy.ssl_verify_host(secure)?;
    easy.signal(false)
}

/// Standard output.
struct Output {
    url: String,
    /// How large the contents are, as far as the server says.
    length: Option<u64>,
    begun: bool,
    failure: Option<io::Error>,
}

impl Output {
    /// Tells how large the contents are, unless that was told.
    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let trace = Trace::DownloadStarted {
            file: "-",
            url: &self.url,
            size: self.length,
        };
        let _ = writeln!(io::stderr(), "{trace}");
    }
}

impl Handler for Output {
    fn header(&mut self, line: &[u8]) -> bool {
        let line = String::from_utf8_lossy(line);
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                self.length = value.trim().parse().ok();
            }
            // Another answer begins: the one before was a redirection.
            None if line.starts_with("HTTP/") => self.length = None,
            _ => {}
        }
        true
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        self.begin();
        match io::stdout().write_all(data) {
            Ok(()) => Ok(data.len()),
            Err(error) => {
                self.failure = Some(error);
                Ok(0)
            }
        }
    }
}
