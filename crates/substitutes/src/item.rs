//! Fetching one item: what is believed of it, the places where it can be had, and a pipe between
//! the program that touches the network and the store.
//!
//! ```text
//! servers ═▶ guix-fetch network ═▶ pipe ─▶ Body ─▶ Store::receive ─▶ the item, if it is right
//!                            └──── events ──▲
//! ```
//!
//! All places have the same nar, whatever its compression, and the network program goes from one to
//! the next when one fails. Only here it is found out whether one lies: then the nar is fetched
//! anew from those after it. When nothing is left, all servers are asked once more. If the program dies, it is
//! started again, and asked the same, once.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use formats::hash::Hash;

use crate::choice::{Choice, Learned};
use crate::compression::Compression;
use crate::health::UserHealth;
use crate::lookup::{self, Lookup};
use crate::narinfo::{Location, Narinfo};
use crate::network::{
    ErrorKind, Event, Exchange, FILES_LIMIT, Fetch, Network, NetworkError, RequestId,
    SOURCES_LIMIT, Source,
};
use crate::progress::Progress;
use crate::servers::Server;
use crate::waiter::{Stop, Waiter, wait};

/// How long a server may be silent if others have not been asked yet whether they have the item.
const FIRST_PATIENCE: Duration = Duration::from_secs(15);
/// How long to wait for the end of a transfer whose contents have all arrived, so that its
/// connection can be used again.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why an item could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Waiting ended.
    #[error(transparent)]
    Stopped(#[from] Stop),
    /// Nobody delivers it.
    #[error("no server delivers it")]
    NotFound,
    /// Everybody delivers something else.
    #[error("hash mismatch")]
    WrongHash {
        /// What it has to be.
        expected: Box<Hash>,
        /// What one of them delivered.
        actual: Box<Hash>,
    },
    /// The store can't receive it.
    #[error(transparent)]
    Store(store::Error),
    /// The network program is missing or has died.
    #[error("{0}")]
    Network(NetworkError),
    /// The system has no descriptors left, or so.
    #[error("cannot fetch: {0}")]
    Io(#[from] io::Error),
}

/// An item to fetch.
pub struct Item<'a> {
    /// What is believed of it, and where it can be had.
    pub choice: &'a Choice,
    /// Finds other places when these fail.
    pub lookup: &'a Lookup<'a>,
    /// Which files are fetched first; it learns from this item.
    pub learned: &'a Learned,
    /// Whether progress is told, as trace lines.
    pub traces: bool,
}

/// A file with the item's nar.
#[derive(Clone)]
struct Place {
    location: Location,
    server: Arc<Server>,
    compression: Compression,
    size: Option<u64>,
    /// For messages.
    url: String,
}

/// How one attempt to fetch the nar ended.
enum Attempt<T> {
    Received(T),
    /// The places up to this one are of no use.
    Failed {
        place: usize,
        wrong: Option<Box<Hash>>,
    },
    /// The network program died.
    ProgramDied(NetworkError),
}

impl Item<'_> {
    /// Fetches it: `receive` reads the nar from what it is given, and fails if it isn't the item's.
    pub fn fetch<T>(
        &self,
        waiter: &mut dyn Waiter,
        receive: &mut dyn FnMut(&mut dyn Read) -> store::Result<T>,
    ) -> Result<T, Error> {
        let mut places = self.places(&self.choice.sources);
        let has_others = self.lookup.servers.len() > 1;
        let mut others_asked = false;
        if has_others && self.are_in_trouble(&places) {
            let others = self.all_places(waiter)?;
            others_asked = !others.is_empty();
            if others_asked {
                places = others;
            }
        }
        let (mut wrong, mut hopeless) = (None, HashSet::new());
        let mut program_died = false;
        loop {
            if places.is_empty() {
                if others_asked {
                    break;
                }
                others_asked = true;
                places = self.other_places(waiter)?;
                places.retain(|place| !hopeless.contains(&place.url));
                continue;
            }
            let batch = batch(&places);
            let patience = (has_others && !others_asked).then_some(FIRST_PATIENCE);
            match self.attempt(&batch, patience, &mut hopeless, waiter, receive)? {
                Attempt::Received(received) => return Ok(received),
                // Whatever killed it may have been another's: once more.
                Attempt::ProgramDied(_) if !program_died => program_died = true,
                Attempt::ProgramDied(error) => return Err(Error::Network(error)),
                Attempt::Failed { place, wrong: hash } => {
                    wrong = wrong.or(hash);
                    places.drain(..=place.min(places.len() - 1));
                }
            }
        }
        match wrong {
            Some(actual) => Err(Error::WrongHash {
                expected: Box::new(*self.choice.believed.nar_hash()),
                actual,
            }),
            None => Err(Error::NotFound),
        }
    }

    fn places(&self, narinfos: &[Arc<Narinfo>]) -> VecDeque<Place> {
        let choice = Choice {
            believed: self.choice.believed.clone(),
            sources: narinfos.to_vec(),
        };
        let place = |(narinfo, variant): (&Arc<Narinfo>, &crate::Variant)| Place {
            location: variant.location.clone(),
            server: narinfo.server().clone(),
            compression: variant.compression,
            size: variant.file_size,
            url: narinfo.url_of(variant),
        };
        let variants = choice.variants(self.learned.preference());
        let mut places: Vec<Place> = variants.into_iter().map(place).collect();
        let now = Instant::now();
        places.sort_by_key(|place| self.lookup.health.has_trouble(&place.server, now));
        places.into()
    }

    /// Whether all that is known are places at servers that were trouble lately.
    fn are_in_trouble(&self, places: &VecDeque<Place>) -> bool {
        let (health, now) = (self.lookup.health, Instant::now());
        (places.iter()).all(|place| health.has_trouble(&place.server, now))
    }

    /// Places that all servers name now.
    fn all_places(&self, waiter: &mut dyn Waiter) -> Result<VecDeque<Place>, Error> {
        let found = self.lookup.look_up_sources(self.choice, waiter);
        let narinfos = found.map_err(|error| match error {
            lookup::Error::Stopped(stop) => Error::Stopped(stop),
            lookup::Error::Network(error) => Error::Network(error),
            lookup::Error::Io(error) => Error::Io(error),
        })?;
        Ok(self.places(&narinfos))
    }

    /// The same when all others have failed, of which some may work again.
    fn other_places(&self, waiter: &mut dyn Waiter) -> Result<VecDeque<Place>, Error> {
        let path = self.choice.believed.path();
        waiter.say(&format!(
            "retrying download of '{path}' with other substitute URLs...\n"
        ));
        let places = self.all_places(waiter)?;
        if places.is_empty() {
            waiter.warn(&format!(
                "failed to find alternative substitute for '{path}'\n"
            ));
        }
        Ok(places)
    }

    /// Fetches the nar from some places, in order, of which each may be silent for as long as
    /// `patience` says. Those that are not worth another try are added to `hopeless`.
    fn attempt<T>(
        &self,
        places: &[Place],
        patience: Option<Duration>,
        hopeless: &mut HashSet<String>,
        waiter: &mut dyn Waiter,
        receive: &mut dyn FnMut(&mut dyn Read) -> store::Result<T>,
    ) -> Result<Attempt<T>, Error> {
        let believed = &self.choice.believed;
        let mut sources = Vec::with_capacity(places.len());
        for (index, place) in places.iter().enumerate() {
            match place.open() {
                Ok(source) => sources.push(source),
                // Without it, the indices of those after it would be wrong.
                Err(_) if index > 0 => break,
                Err(error) => {
                    waiter.warn(&format!("download from '{}' failed: {error}\n", place.url));
                    return Ok(Attempt::Failed {
                        place: 0,
                        wrong: None,
                    });
                }
            }
        }
        let course = Course {
            places,
            current: 0,
            progress: Progress::new(believed.path(), self.traces),
            learned: self.learned,
            health: self.lookup.health,
            is_patient: patience.is_none(),
            hopeless,
        };
        let fetch = Fetch {
            sources,
            size: believed.nar_size(),
        };
        let mut body = Body::start(self.lookup.network, fetch, patience, course, waiter)?;
        let result = receive(&mut body);
        if let Some(stop) = body.stopped {
            return Err(stop.into());
        }
        let place = body.course.current;
        let error = match result {
            Ok(received) => {
                body.finish();
                return Ok(Attempt::Received(received));
            }
            Err(error) => error,
        };
        if let Some(failure) = body.failure.take() {
            return match failure.kind() {
                ErrorKind::ProgramDied => Ok(Attempt::ProgramDied(failure)),
                ErrorKind::ProgramMissing => Err(Error::Network(failure)),
                _ => {
                    let last = places.len() - 1;
                    body.course.note(last, &failure);
                    body.say_failed(last, failure.text());
                    Ok(Attempt::Failed {
                        place: last,
                        wrong: None,
                    })
                }
            };
        }
        let wrong = match error {
            store::Error::WrongHash { actual, .. } => Some(actual),
            store::Error::BadInput(_) | store::Error::DeepArchive(_) => None,
            error => return Err(Error::Store(error)),
        };
        let reason = match &wrong {
            Some(_) => "it has other contents".to_owned(),
            None => format!("corrupt input while restoring '{}'", believed.path()),
        };
        body.say_failed(place, &reason);
        Ok(Attempt::Failed { place, wrong })
    }
}

/// As many of the places as the network program takes at once.
fn batch(places: &VecDeque<Place>) -> Vec<Place> {
    let mut files = 0;
    let fits = |place: &&Place| {
        files += usize::from(matches!(place.location, Location::File(_)));
        files <= FILES_LIMIT
    };
    let places = places.iter().take(SOURCES_LIMIT);
    places.take_while(fits).cloned().collect()
}

impl Place {
    fn open(&self) -> io::Result<Source> {
        let compression = self.compression;
        Ok(match &self.location {
            Location::Url(url) => Source::Url {
                url: url.clone(),
                compression,
            },
            Location::File(name) => Source::File {
                file: self.server.open(name)?.into(),
                compression,
            },
        })
    }
}

/// The nar as it arrives. An error of the network, or the end of waiting, is an error of reading,
/// and kept here.
struct Body<'a> {
    pipe: File,
    exchange: Exchange,
    request: RequestId,
    waiter: &'a mut dyn Waiter,
    course: Course<'a>,
    /// Whether the last event has come.
    has_ended: bool,
    failure: Option<NetworkError>,
    stopped: Option<Stop>,
}

/// The places that the network program was given, and what it says of them.
struct Course<'a> {
    places: &'a [Place],
    /// The place that delivers.
    current: usize,
    progress: Progress<'a>,
    learned: &'a Learned,
    health: UserHealth<'a>,
    /// Whether its servers had all the time that servers have.
    is_patient: bool,
    /// The URLs of places that are not worth another try.
    hopeless: &'a mut HashSet<String>,
}

impl<'a> Body<'a> {
    fn start(
        network: &Network,
        fetch: Fetch,
        patience: Option<Duration>,
        course: Course<'a>,
        waiter: &'a mut dyn Waiter,
    ) -> io::Result<Body<'a>> {
        let mut exchange = Exchange::new(network)?;
        if let Some(patience) = patience {
            exchange.set_patience(patience);
        }
        let (reader, writer) = system::pipe::pipe()?;
        let request = exchange.fetch(fetch, writer);
        waiter.note_server(&course.places[0].server);
        Ok(Body {
            pipe: reader.into(),
            exchange,
            request,
            waiter,
            course,
            has_ended: false,
            failure: None,
            stopped: None,
        })
    }

    /// Handles the events that are there.
    fn take_events(&mut self) {
        while let Some((id, event)) = self.exchange.next_event() {
            if id != self.request {
                continue;
            }
            self.has_ended |= event.is_last();
            if let Event::Failed(error) = event {
                self.failure = Some(error);
            } else {
                self.course.handle(event, self.waiter);
            }
        }
    }

    /// How long to wait; if it is time to stop, that is kept.
    fn time_left(&mut self) -> io::Result<Option<Duration>> {
        self.waiter.time_left().map_err(|stop| {
            self.stopped = Some(stop);
            io::Error::other(stop)
        })
    }

    /// Waits until there is something to read.
    fn wait(&mut self) -> io::Result<()> {
        loop {
            self.take_events();
            if let Some(failure) = &self.failure {
                return Err(io::Error::other(failure.clone()));
            }
            let timeout = self.time_left()?;
            let fds = [self.pipe.as_fd(), self.exchange.as_fd()];
            if wait(self.waiter, fds, timeout)?[0] {
                return Ok(());
            }
        }
    }

    /// The contents have arrived: waits a little for the end of the transfer.
    fn finish(&mut self) {
        let deadline = Instant::now() + LAST_WORDS;
        loop {
            self.take_events();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.has_ended || left.is_zero() || self.waiter.time_left().is_err() {
                break;
            }
            if wait(self.waiter, [self.exchange.as_fd()], Some(left)).is_err() {
                break;
            }
        }
        self.course.succeeded(self.waiter);
    }

    fn say_failed(&mut self, place: usize, reason: &str) {
        self.course.failed(place, reason, self.waiter);
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.wait()?;
        let count = self.pipe.read(buffer)?;
        if count > 0 {
            self.waiter.note_received(count as u64);
            return Ok(count);
        }
        // The end means nothing before the program has said why.
        while !self.has_ended {
            let timeout = self.time_left()?;
            wait(self.waiter, [self.exchange.as_fd()], timeout)?;
            self.take_events();
        }
        match &self.failure {
            Some(failure) => Err(io::Error::other(failure.clone())),
            None => Ok(0),
        }
    }
}

impl Course<'_> {
    fn handle(&mut self, event: Event, waiter: &mut dyn Waiter) {
        match event {
            Event::Started { source, total } => self.delivers(source, total, waiter),
            Event::Progress { done, total } => {
                self.delivers(self.current, total, waiter);
                self.progress.progressed(done, waiter);
            }
            Event::SourceFailed { source, error } => {
                let source = source.min(self.places.len() - 1);
                self.note(source, &error);
                self.failed(source, error.text(), waiter);
                self.current = self.current.max(source);
                if let Some(next) = self.places.get(source + 1) {
                    waiter.note_server(&next.server);
                }
            }
            Event::Finished {
                source,
                received,
                waited,
            } => {
                self.delivers(source, Some(received), waiter);
                if let Location::Url(_) = self.places[self.current].location {
                    self.learned.received(received, waited);
                }
            }
            Event::Response { .. } | Event::Busy | Event::Failed(_) => {}
        }
    }

    /// Notes what a failure says of the place's server.
    fn note(&mut self, place: usize, error: &NetworkError) {
        let place = &self.places[place];
        let is_busy = error.is_busy();
        let is_silent = error.kind() == ErrorKind::Timeout;
        if is_busy || is_silent {
            self.health.is_late(&place.server, is_busy, Instant::now());
        }
        if is_busy || is_silent && self.is_patient {
            self.hopeless.insert(place.url.clone());
        }
    }

    /// A place delivers a file of this size.
    fn delivers(&mut self, source: usize, size: Option<u64>, waiter: &mut dyn Waiter) {
        self.current = source.min(self.places.len() - 1);
        let place = &self.places[self.current];
        waiter.note_server(&place.server);
        self.progress
            .started(&place.url, size.or(place.size), waiter);
    }

    /// Everything has arrived.
    fn succeeded(&mut self, waiter: &mut dyn Waiter) {
        let url = &self.places[self.current].url;
        self.progress.started(url, None, waiter);
        self.progress.succeeded(waiter);
    }

    fn failed(&mut self, place: usize, reason: &str, waiter: &mut dyn Waiter) {
        let has_next = place + 1 < self.places.len();
        let url = &self.places[place].url;
        self.progress.failed(url, reason, has_next, waiter);
    }
}
