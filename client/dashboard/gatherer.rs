//! Gathers the document while somebody looks: at most once a second, less often the more work it is to gather
//! or to send it, and for all browsers together.
//!
//! A thread does it, which sleeps while nobody looks.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hyper::body::Bytes;
use system::sync::{Condvar, Mutex};
use tokio::sync::watch;
use tokio::time::timeout;

use super::compression;
use super::cost::processor_time;
use super::document::{self, END, EVENT};
use super::farm::{Farm, Gathered};
use super::metrics::metrics;

/// How often the document is gathered at most.
const OFTEN: Duration = Duration::from_secs(1);
/// How seldom at least, whatever it costs.
const SELDOM: Duration = Duration::from_secs(60);
/// The part of a processor's time that gathering may take, but for looking at machines: one of so many.
const PROCESSOR_PART: u32 = 300;
/// How many bytes are sent to all browsers in a second, at most.
const BYTES_PER_SECOND: u64 = 20 << 20;
/// How long a browser that asks for the document waits for it.
const WAIT: Duration = Duration::from_secs(15);
/// For how long nobody must have looked before the daemon is left alone.
const REST: Duration = Duration::from_secs(5);

/// The document, gathered at some time.
pub struct Picture {
    gathered: Gathered,
    event: Bytes,
    /// The same number as the last one if nothing but the time has changed.
    pub revision: u64,
    /// Until when it is good enough.
    until: Instant,
    metrics: OnceLock<Bytes>,
    compressed_json: OnceLock<Bytes>,
    compressed_event: OnceLock<Bytes>,
}

impl Picture {
    /// The document.
    pub fn json(&self) -> Bytes {
        self.event.slice(EVENT.len()..self.event.len() - END.len())
    }

    /// The document, compressed.
    pub fn compressed_json(&self) -> Bytes {
        let made = self
            .compressed_json
            .get_or_init(|| compression::whole(&self.json()));
        made.clone()
    }

    /// The document as an event.
    pub fn event(&self) -> Bytes {
        self.event.clone()
    }

    /// The same, for a compressed stream.
    pub fn compressed_event(&self) -> Bytes {
        let made = self
            .compressed_event
            .get_or_init(|| compression::piece(&self.event));
        made.clone()
    }

    /// How many bytes are sent to all those who follow.
    fn bytes_to(&self, viewers: Viewers) -> u64 {
        let compressed = self.compressed_event.get().map_or(0, Bytes::len) as u64;
        let plain = (self.event.len() as u64).saturating_mul(viewers.plain);
        plain.saturating_add(compressed.saturating_mul(viewers.compressed))
    }

    /// The same for Prometheus.
    pub fn metrics(&self) -> Bytes {
        let made = self.metrics.get_or_init(|| metrics(&self.gathered).into());
        made.clone()
    }
}

/// The last picture, and who looks.
pub struct Gatherer {
    looks: Arc<Looks>,
    pictures: watch::Receiver<Option<Arc<Picture>>>,
}

#[derive(Default)]
struct Looks {
    state: Mutex<Look>,
    changed: Condvar,
}

#[derive(Default)]
struct Look {
    viewers: Viewers,
    /// Whether somebody has asked for a new picture.
    is_asked: bool,
}

/// How many browsers follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Viewers {
    plain: u64,
    /// Those that accept compressed events.
    compressed: u64,
}

impl Viewers {
    fn of(&mut self, is_compressed: bool) -> &mut u64 {
        match is_compressed {
            true => &mut self.compressed,
            false => &mut self.plain,
        }
    }
}

/// Somebody who looks, until it is dropped.
pub struct Viewer {
    looks: Arc<Looks>,
    is_compressed: bool,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        *self.looks.state.lock().viewers.of(self.is_compressed) -= 1;
    }
}

impl Gatherer {
    /// Starts the thread, which does nothing yet.
    pub fn start(farm: Farm) -> Result<Gatherer> {
        let looks = Arc::new(Looks::default());
        let (sender, pictures) = watch::channel(None);
        let of_thread = looks.clone();
        std::thread::Builder::new()
            .name("gather".into())
            .spawn(move || gather(farm, &of_thread, &sender))
            .context("cannot start a thread")?;
        Ok(Gatherer { looks, pictures })
    }

    /// Somebody looks, whose events are compressed or not.
    pub fn viewer(&self, is_compressed: bool) -> Viewer {
        *self.looks.state.lock().viewers.of(is_compressed) += 1;
        self.looks.changed.notify_one();
        Viewer {
            looks: self.looks.clone(),
            is_compressed,
        }
    }

    /// The last picture, if it is good enough.
    fn last(&self) -> Option<Arc<Picture>> {
        let last = self.pictures.borrow();
        let is_good = |picture: &&Arc<Picture>| Instant::now() < picture.until;
        last.as_ref().filter(is_good).cloned()
    }

    /// The last picture if it is good enough, or else the next one; the last one if that is too long in coming.
    pub async fn picture(&self) -> Option<Arc<Picture>> {
        let mut pictures = self.pictures.clone();
        pictures.mark_unchanged();
        if let Some(last) = self.last() {
            return Some(last);
        }
        self.looks.state.lock().is_asked = true;
        self.looks.changed.notify_one();
        let _ = timeout(WAIT, pictures.changed()).await;
        pictures.borrow().clone()
    }

    /// Pictures from the next one on, for a viewer.
    pub fn pictures(&self) -> Pictures {
        let mut pictures = self.pictures.clone();
        pictures.mark_unchanged();
        Pictures {
            first: self.last(),
            pictures,
            revision: None,
        }
    }
}

/// Pictures that differ.
pub struct Pictures {
    first: Option<Arc<Picture>>,
    pictures: watch::Receiver<Option<Arc<Picture>>>,
    revision: Option<u64>,
}

impl Pictures {
    /// The next one that differs from the one before.
    pub async fn next(&mut self) -> Option<Arc<Picture>> {
        loop {
            let picture = match self.first.take() {
                Some(picture) => picture,
                None => {
                    self.pictures.changed().await.ok()?;
                    let Some(picture) = self.pictures.borrow_and_update().clone() else {
                        continue;
                    };
                    picture
                }
            };
            if self.revision != Some(picture.revision) {
                self.revision = Some(picture.revision);
                return Some(picture);
            }
        }
    }
}

/// The thread.
fn gather(mut farm: Farm, looks: &Looks, pictures: &watch::Sender<Option<Arc<Picture>>>) {
    let mut revision = 0;
    let mut last = None;
    loop {
        let viewers = wait_for_viewers(looks, &mut farm);
        let begun = Instant::now();
        let before = processor_time();
        let mut gathered = farm.gather();
        let event = Bytes::from(std::mem::take(&mut gathered.event));
        let mut hasher = DefaultHasher::new();
        document::without_time(&event).hash(&mut hasher);
        let hash = hasher.finish();
        let is_news = last != Some(hash);
        revision += u64::from(is_news);
        last = Some(hash);
        let looked = gathered.looked;
        let mut picture = Picture {
            gathered,
            event,
            revision,
            until: begun,
            metrics: OnceLock::new(),
            compressed_json: OnceLock::new(),
            compressed_event: OnceLock::new(),
        };
        if viewers.compressed > 0 && is_news {
            picture.compressed_event();
        }
        let took = processor_time().saturating_sub(before + looked);
        let sending = picture.bytes_to(viewers) / (BYTES_PER_SECOND / 1000);
        let pause = OFTEN
            .max(took.saturating_mul(PROCESSOR_PART))
            .max(Duration::from_millis(sending))
            .min(SELDOM);
        let until = begun + pause;
        picture.until = until;
        pictures.send_replace(Some(Arc::new(picture)));
        // (Who asks meanwhile is given this one.)
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// Sleeps until somebody looks; returns how many follow.
fn wait_for_viewers(looks: &Looks, farm: &mut Farm) -> Viewers {
    let mut state = looks.state.lock();
    let nobody = |state: &Look| state.viewers == Viewers::default() && !state.is_asked;
    if nobody(&state) {
        state = looks.changed.wait_timeout(state, REST);
        if nobody(&state) {
            drop(state);
            farm.rest();
            state = looks.state.lock();
        }
    }
    while nobody(&state) {
        state = looks.changed.wait(state);
    }
    state.is_asked = false;
    state.viewers
}
