//! The payloads that are JSON: what each side says of itself, and why it ends. Unknown members are
//! ignored, so that later versions can have more.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::FrameError;
use super::frame::{Frame, Kind};
use super::{PAYLOAD_LIMIT, VERSION};

/// The longest text of a failure, in bytes: as JSON, where a character may become six, it fits into a
/// frame.
const TEXT_LIMIT: usize = PAYLOAD_LIMIT / 8;

/// What the worker says of itself once its daemon answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerHello {
    /// [`VERSION`].
    pub version: u32,
    /// The release of the program.
    pub release: String,
    /// The name of the node.
    pub host: String,
    /// The scheduler's name for the job, if it has told the worker.
    pub job: Option<String>,
    /// The system type of the node.
    pub system: String,
    /// How many processors the worker may use.
    pub cores: u32,
    /// The memory of the node, or of the job where its limit is known, in bytes.
    pub memory: u64,
    /// The load of the node, and the free space of its store.
    pub status: Status,
    /// The store.
    pub store: String,
    /// The file that the store is, for a daemon that runs there anyway.
    pub store_identity: Option<StoreIdentity>,
    /// The public key by which exports will be signed, if it was made for this worker.
    pub key: Option<String>,
}

/// What the keeper says of itself and wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeeperHello {
    /// [`VERSION`].
    pub version: u32,
    /// The name of the pool, for the worker's messages.
    pub pool: String,
    /// The store directory.
    pub store: String,
    /// The file that the store is here, so that a worker can refuse to build in the same one.
    pub store_identity: Option<StoreIdentity>,
    /// The public key that signs what is sent.
    pub key: Option<String>,
    /// How many processors a build may use; 0: all that the worker may.
    pub cores: u32,
    /// How many builds may run at the same time.
    pub max_jobs: u32,
    /// How the bytes of channels are compressed, in both directions.
    pub compression: Compression,
    /// How often each side sends a ping, in milliseconds.
    pub heartbeat_ms: u64,
    /// After how much silence each side gives the other one up, in milliseconds.
    pub lost_ms: u64,
}

impl Default for KeeperHello {
    fn default() -> KeeperHello {
        KeeperHello {
            version: VERSION,
            pool: String::new(),
            store: "/gnu/store".to_owned(),
            store_identity: None,
            key: None,
            cores: 0,
            max_jobs: 1,
            compression: Compression::Zstd,
            heartbeat_ms: 5_000,
            lost_ms: 30_000,
        }
    }
}

/// How the bytes of channels are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// By zstd, where that makes them shorter.
    #[default]
    Zstd,
}

/// What changes: the payload of pings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The load average of the last minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// The space that is free for the store, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free: Option<u64>,
}

/// What tells whether two hosts have the same store, mounted from the same server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreIdentity {
    /// The inode number of the store directory.
    pub inode: u64,
    /// When the directory was changed last, which happens whenever an item is added: seconds and
    /// nanoseconds.
    pub changed: (i64, i64),
}

impl StoreIdentity {
    /// That of a store directory.
    pub fn of(store: &Path) -> io::Result<StoreIdentity> {
        // A network file system asks its server anew when a directory is opened.
        let metadata = fs::File::open(store)?.metadata()?;
        Ok(StoreIdentity {
            inode: metadata.ino(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Why a side ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose fault it is.
    pub class: Class,
    /// The reason, for a person.
    pub text: String,
}

/// The classes of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// The other side's version isn't this one's.
    Version,
    /// The other side has sent what it must not send.
    Protocol,
    /// The node forbids namespaces, or mounts in them.
    Namespaces,
    /// There is no directory for the store, or no space.
    Disk,
    /// There is no daemon, or it has ended.
    Daemon,
    /// The keys can't be read or made.
    Key,
    /// The store is the keeper's own.
    SameStore,
    /// A signal has ended the worker: the scheduler's, at a time limit.
    Signal,
    /// Nothing was heard of the other side for too long.
    Silence,
    /// Anything else, and what later versions have.
    #[serde(other)]
    Other,
}

impl Failure {
    /// A failure of this class. Of a text that is too long for a frame, the beginning is left.
    pub fn new(class: Class, text: impl Into<String>) -> Failure {
        let mut text: String = text.into();
        let most = TEXT_LIMIT.min(text.len());
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        Failure { class, text }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// The payload of a frame, as JSON.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Nothing of this can fail to be written.
    serde_json::to_vec(value).unwrap_or_default()
}

/// What a frame's payload says. An empty one says nothing: that stands for an empty object.
pub fn decode<T: DeserializeOwned>(frame: &Frame<'_>) -> Result<T, FrameError> {
    let text = match (frame.payload, frame.kind) {
        (b"", Kind::Ping | Kind::Pong) => b"{}",
        (payload, _) => payload,
    };
    serde_json::from_slice(text).map_err(|error| FrameError::Payload {
        frame: frame.kind.name(),
        reason: error.to_string(),
    })
}
