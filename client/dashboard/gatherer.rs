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

use super::cost::processor_time;
use super::document;
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

/// What comes before the document in an event.
const EVENT: &str = "event: farm\ndata: ";

/// The document, gathered at some time.
pub struct Picture {
    gathered: Gathered,
    /// `event: farm`, with the document as its data.
    event: Bytes,
    /// The same number as the last one if nothing but the time has changed.
    pub revision: u64,
    /// Until when it is good enough.
    until: Instant,
    metrics: OnceLock<Bytes>,
}

impl Picture {
    /// The document.
    pub fn json(&self) -> Bytes {
        self.event.slice(EVENT.len()..self.event.len() - 1)
    }

    /// The document as an event.
    pub fn event(&self) -> Bytes {
        self.event.clone()
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
    /// How many browsers follow.
    viewers: u64,
    /// Whether somebody has asked for a new picture.
    is_asked: bool,
}

/// Somebody who looks, until it is dropped.
pub struct Viewer(Arc<Looks>);

impl Drop for Viewer {
    fn drop(&mut self) {
        self.0.state.lock().viewers -= 1;
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

    /// Somebody looks.
    pub fn viewer(&self) -> Viewer {
        self.looks.state.lock().viewers += 1;
        self.looks.changed.notify_one();
        Viewer(self.looks.clone())
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
        let gathered = farm.gather();
        let mut hasher = DefaultHasher::new();
        gathered.document.hash(&mut hasher);
        let hash = hasher.finish();
        revision += u64::from(last != Some(hash));
        last = Some(hash);
        let json = document::whole(gathered.time, &gathered.document);
        let event = Bytes::from(format!("{EVENT}{json}\n\n"));
        let took = processor_time().saturating_sub(before + gathered.looked);
        let sending = (event.len() as u64).saturating_mul(viewers) / (BYTES_PER_SECOND / 1000);
        let pause = OFTEN
            .max(took.saturating_mul(PROCESSOR_PART))
            .max(Duration::from_millis(sending))
            .min(SELDOM);
        let until = begun + pause;
        pictures.send_replace(Some(Arc::new(Picture {
            gathered: Gathered {
                document: String::new(),
                ..gathered
            },
            event,
            revision,
            until,
            metrics: OnceLock::new(),
        })));
        // (Who asks meanwhile is given this one.)
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// Sleeps until somebody looks; returns how many follow.
fn wait_for_viewers(looks: &Looks, farm: &mut Farm) -> u64 {
    let mut state = looks.state.lock();
    let nobody = |state: &Look| state.viewers == 0 && !state.is_asked;
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
