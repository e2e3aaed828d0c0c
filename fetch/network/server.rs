//! The loop of the one thread that touches the network.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use substitutes::network::message::{Request, SourceMessage};
use substitutes::network::{ErrorKind, Event, NetworkError, RequestId};

use super::budget::Budget;
use super::capacity::Capacity;
use super::engine::{Engine, Waiting};
use super::fetches::Fetches;
use super::gets::{Get, Gets};
use super::job::{Job, Place, Tools};
use super::link::Link;
use super::notes::Notes;
use super::rests::Rests;

/// How many requests are taken at once; whoever asks gives fewer.
const REQUESTS: usize = 16 << 10;
/// How long the thread waits when nothing happens.
const IDLE: Duration = Duration::from_secs(60);

struct Server {
    link: Link,
    engine: Engine,
    notes: Notes,
    gets: Gets,
    fetches: Fetches,
    /// The servers that were too busy to deliver items. They may well answer questions.
    rests: Rests,
    budget: Arc<Budget>,
}

/// Serves requests until the other side hangs up.
pub fn serve(socket: UnixStream) -> anyhow::Result<()> {
    let capacity = Capacity::of(system::open_files::hard_limit()?);
    let mut server = Server {
        link: Link::new(socket)?,
        engine: Engine::new(capacity.idle).context("cannot set up libcurl")?,
        notes: Notes::new()?,
        gets: Gets::new(capacity.gets),
        fetches: Fetches::new(capacity.fetches),
        rests: Rests::default(),
        budget: Budget::new(),
    };
    while server.step()? {}
    Ok(())
}

impl Server {
    /// Does what can be done, and waits until there is something to do. `false` if the other side
    /// has hung up.
    fn step(&mut self) -> anyhow::Result<bool> {
        if !self.link.is_busy() {
            let Some(requests) = self.link.receive()? else {
                return Ok(false);
            };
            for (request, files) in requests {
                self.take(request, files);
            }
        }
        let sender = self.notes.sender();
        let mut tools = Tools {
            engine: &mut self.engine,
            link: &mut self.link,
            notes: &sender,
            rests: &mut self.rests,
            budget: &self.budget,
        };
        for note in self.notes.take() {
            self.fetches.note(note, &mut tools);
        }
        for ended in tools.engine.run().context("libcurl")? {
            if let Some(ended) = self.gets.take(ended, tools.engine, tools.link) {
                self.fetches.take(ended, &mut tools);
            }
        }
        let until = [
            self.gets.start(tools.engine, tools.link),
            self.fetches.tend(&mut tools),
        ];
        let until = until.into_iter().flatten().min();
        if !self.link.send()? {
            return Ok(false);
        }
        self.wait(until)?;
        Ok(true)
    }

    fn wait(&self, until: Option<Instant>) -> anyhow::Result<()> {
        let link = Waiting {
            fd: self.link.fd(),
            for_reading: !self.link.is_busy(),
            for_writing: self.link.has_replies(),
        };
        let notes = Waiting {
            fd: self.notes.fd(),
            for_reading: true,
            for_writing: false,
        };
        // Rounded up, lest it waits for nothing again and again.
        let left = until.map(|until| {
            until.saturating_duration_since(Instant::now()) + Duration::from_millis(1)
        });
        let timeout = left.unwrap_or(IDLE).min(IDLE);
        self.engine
            .wait(&[link, notes], timeout)
            .context("libcurl")?;
        Ok(())
    }

    fn take(&mut self, request: Request, files: Vec<OwnedFd>) {
        let has_room = self.gets.len() + self.fetches.len() < REQUESTS;
        match request {
            Request::Get { id, .. } | Request::Fetch { id, .. } if !has_room => {
                let text = "too many requests at once";
                self.fail(id, NetworkError::new(ErrorKind::Refused, text));
            }
            Request::Get {
                requester,
                id,
                url,
                limit,
                patience,
            } => {
                let get = Get::new(requester, url, limit, patience);
                self.gets.add(id, get, &mut self.link);
            }
            Request::Fetch {
                requester,
                id,
                size,
                patience,
                sources,
            } => {
                let first = match sources.first() {
                    Some(SourceMessage::Url { url, .. }) => Some(url.clone()),
                    _ => None,
                };
                let mut files = files.into_iter();
                let Some(pipe) = files.next() else { return };
                let places = places(sources, files);
                match Job::new(id, requester.user, places, pipe, size, patience) {
                    Ok(job) => self.fetches.add(requester, id, job, first.as_deref()),
                    Err(error) => self.fail(id, error),
                }
            }
            Request::Cancel { id } => {
                if !self.gets.cancel(id, &mut self.engine) {
                    self.fetches.cancel(id, &mut self.engine);
                }
            }
            // The link has taken it.
            Request::Hello { .. } => {}
        }
    }

    fn fail(&mut self, id: RequestId, error: NetworkError) {
        self.link.reply(id, Event::Failed(error));
    }
}

fn places(sources: Vec<SourceMessage>, mut files: impl Iterator<Item = OwnedFd>) -> Vec<Place> {
    let places = sources.into_iter().map(|source| match source {
        SourceMessage::Url { url, compression } => Place::Url { url, compression },
        SourceMessage::File { compression } => Place::File {
            file: files.next(),
            compression,
        },
    });
    places.collect()
}
