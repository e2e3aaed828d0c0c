//! What users see of a lookup: how far each server has answered, and which can't be reached.
//!
//! The words are those of `guix substitute` (`doc/spec/substitutes.md`, section 5).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::network::{ErrorKind, NetworkError, is_busy};
use crate::servers::Server;
use crate::told::Told;
use crate::waiter::Waiter;

/// How often progress is shown.
const PERIOD: Duration = Duration::from_millis(200);

/// The progress of a lookup.
pub(crate) struct Reports<'a> {
    servers: Vec<Report>,
    /// What was said before.
    told: &'a Told,
    /// When progress was shown last.
    shown: Option<Instant>,
}

struct Report {
    server: Arc<Server>,
    asked: u64,
    answered: u64,
    /// What was shown last.
    shown: Option<(u64, u64)>,
}

impl Reports<'_> {
    pub(crate) fn new<'a, 's>(
        servers: impl Iterator<Item = &'s Arc<Server>>,
        told: &'a Told,
    ) -> Reports<'a> {
        let report = |server: &Arc<Server>| Report {
            server: server.clone(),
            asked: 0,
            answered: 0,
            shown: None,
        };
        Reports {
            servers: servers.map(report).collect(),
            told,
            shown: None,
        }
    }

    /// A server on the network is asked for one item more.
    pub(crate) fn asked(&mut self, server: usize) {
        self.servers[server].asked += 1;
    }

    /// It has answered one of the questions.
    pub(crate) fn answered(&mut self, server: usize) {
        self.servers[server].answered += 1;
    }

    /// One of the questions is not answered.
    pub(crate) fn not_answered(&mut self, server: usize) {
        self.servers[server].asked -= 1;
    }

    /// Whether it has answered anything.
    pub(crate) fn has_answered(&self, server: usize) -> bool {
        self.servers[server].answered > 0
    }

    /// A server can't be reached, or doesn't answer.
    pub(crate) fn cannot_reach(
        &mut self,
        server: usize,
        error: &NetworkError,
        waiter: &mut dyn Waiter,
    ) {
        let what = match error.kind() {
            ErrorKind::HostNotFound => "host not found",
            ErrorKind::Tls => "TLS connection failed",
            ErrorKind::Timeout => "the server does not answer",
            ErrorKind::Status(status) if is_busy(status) => "the server is busy",
            ErrorKind::Status(_) => "the server cannot answer",
            _ => "connection failed",
        };
        self.say(server, what, error.text(), waiter);
    }

    /// A server is late, and others are asked in its place.
    pub(crate) fn is_late(&mut self, server: usize, reason: &str, waiter: &mut dyn Waiter) {
        self.say(server, reason, "others are asked meanwhile", waiter);
    }

    /// Says something of a server, if the client has not been told yet.
    fn say(&mut self, server: usize, what: &str, why: &str, waiter: &mut dyn Waiter) {
        let host = host(self.servers[server].server.url());
        let text = format!("{host}: {what}");
        if self.told.is_news(&text) {
            waiter.warn(&format!("{text}: {why}\n"));
        }
    }

    /// Shows progress, if it is time.
    pub(crate) fn show(&mut self, waiter: &mut dyn Waiter) {
        if self.shown.is_some_and(|shown| shown.elapsed() < PERIOD) {
            return;
        }
        for report in &mut self.servers {
            report.show(waiter);
        }
        self.shown = Some(Instant::now());
    }

    /// Shows the end.
    pub(crate) fn finish(&mut self, waiter: &mut dyn Waiter) {
        for report in &mut self.servers {
            if report.asked > 0 || report.shown.is_some() {
                waiter.say(&format!("{}\n", report.line()));
            }
        }
    }
}

impl Report {
    fn show(&mut self, waiter: &mut dyn Waiter) {
        let counts = (self.answered, self.asked);
        if self.asked == 0 || self.shown == Some(counts) {
            return;
        }
        self.shown = Some(counts);
        waiter.say(&format!("{}\r", self.line()));
    }

    /// A line that replaces the one before it.
    fn line(&self) -> String {
        let tenths = self.answered.saturating_mul(1000) / self.asked.max(1);
        let percent = format!("{}.{}", tenths / 10, tenths % 10);
        let server = &self.server;
        format!("\x1b[Klooking for substitutes on '{server}'... {percent:>5}%")
    }
}

/// The host in a URL, with its port if there is one.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default()
}
