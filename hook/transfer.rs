//! Building one derivation on one machine: missing inputs are sent (or fetched by the machine
//! itself), it is built, and the outputs are fetched (`doc/spec/offload.md`, sections 11 to 20 and 26).

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::time::Instant;

use authority::{Keys, SingleKey};
use formats::StorePath;
use formats::derivation::FixedHash;
use nix::sys::statvfs::statvfs;
use protocol::frames::status;
use protocol::trace::Trace;
use store::{Authority, ImportOptions, Quiet, Store};

use crate::bounded_pipe::bounded_pipe;
use crate::directories::HookDirectories;
use crate::have::{ItemId, Notes};
use crate::history::{Course, Part};
use crate::host_locks::{self, Direction, LastUpload, UploadLock};
use crate::machines::{Machine, Pool, Trust};
use crate::remote::{
    self, BuildLimits, Fetched, INLINE_ARCHIVE_LIMIT, InlineArchive, RemoteBuild, Transport,
};
use crate::sends::{self, Sending};
use crate::transfer_progress::TransferProgress;
use crate::{rates, stderr, stderr_line};

/// Roughly how many bytes an item takes in an archive besides its nar: names and a signature.
const ITEM_OVERHEAD: u64 = 1 << 10;

/// Why an offload failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine, or the build on it.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// The machine sent invalid data.
    #[error("what '{machine}' sent cannot be taken: {source}")]
    Corrupt {
        /// The machine.
        machine: String,
        /// What is wrong.
        source: store::Error,
    },
    /// The machine sent more than this host can hold.
    #[error("'{machine}' has sent more than {} MiB, which is all the room in this host's store", .room >> 20)]
    TooMuch {
        /// The machine.
        machine: String,
        /// How many bytes it could send.
        room: u64,
    },
    /// This host's store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Something else on this host failed.
    #[error("while {doing}: {source}")]
    Local {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// The remote daemon's status, if the build itself failed.
    pub fn is_build_failure(&self) -> Option<u32> {
        match self {
            Error::Remote(error) => error.is_build_failure(),
            _ => None,
        }
    }

    /// What the machine says of a builder that has failed, on one line.
    pub fn verdict(&self) -> Option<&str> {
        match self {
            Error::Remote(error) => error.verdict(),
            _ => None,
        }
    }

    /// Whether this host is at fault, so that no other machine would succeed.
    pub fn is_local(&self) -> bool {
        match self {
            Error::Remote(error) => error.is_local(),
            Error::Corrupt { .. } | Error::TooMuch { .. } => false,
            Error::Store(_) | Error::Local { .. } => true,
        }
    }
}

/// A build to offload.
pub struct BuildTask<'a> {
    /// The `.drv`.
    pub derivation: &'a StorePath,
    /// The store items that it needs on the machine, without the `.drv`.
    pub inputs: &'a [StorePath],
    /// The outputs to fetch.
    pub outputs: &'a [StorePath],
    /// The limits of the build.
    pub limits: BuildLimits,
}

/// This host.
pub struct LocalHost<'a> {
    /// Its store.
    pub store: &'a Store,
    /// The hook's directories.
    pub directories: &'a HookDirectories,
}

/// Builds on a machine, over a connection to its daemon. `sending` is the record of what is expected to be
/// sent. The build's log is written to `log`, and how it goes on is noted in `course`.
pub fn offload(
    host: &LocalHost<'_>,
    machine: &Machine,
    mut transport: Box<dyn Transport>,
    task: &BuildTask<'_>,
    mut sending: Option<Sending>,
    log: &mut dyn Write,
    course: &mut Course,
) -> Result<(), Error> {
    course.enter(Part::Sending);
    // A machine that failed has perhaps sent some before.
    let mut outputs = Vec::new();
    for output in task.outputs {
        if !host.store.is_valid(output)? {
            outputs.push(output.clone());
        }
    }
    if outputs.is_empty() {
        return Ok(());
    }
    let outputs = outputs.as_slice();
    let mut items: BTreeSet<StorePath> = task.inputs.iter().cloned().collect();
    items.insert(task.derivation.clone());
    let items = host.store.sort_topologically(&items)?;
    let mut last_upload = LastUpload::look(host.directories, machine);
    // What is valid there must be protected before we ask for it.
    let kept = [items.as_slice(), outputs].concat();
    let mut missing = transport.protect_and_ask(&kept, &items)?;
    let mut notes = Notes::of(host.directories, machine);
    notes.answered(&items, &missing);
    let began = Instant::now();
    let mut sizes = Sizes::of(host.store);
    let fetched = have_it_fetch(host, machine, &mut *transport, &missing, task, &mut sizes)?;
    if fetched != Fetched::Nothing {
        // What others have sent meanwhile is there, too.
        last_upload = LastUpload::look(host.directories, machine);
        let took = began.elapsed();
        let lacked = missing;
        missing = match fetched {
            Fetched::Removed => transport.protect_and_ask(&kept, &items)?,
            _ => transport.missing(&lacked)?,
        };
        let (before, after) = (sizes.sum(&lacked)?, sizes.sum(&missing)?);
        let got = before.saturating_sub(after);
        rates::fetched(host.directories, machine, before, got, took);
        notes.answered(&lacked, &missing);
    }
    let inline_archive = match missing.is_empty() {
        true => None,
        false => {
            let (path, last) = (&mut *transport, &last_upload);
            send(
                host,
                machine,
                path,
                (missing.clone(), &mut sizes),
                last,
                &mut sending,
                course,
            )?
        }
    };
    if inline_archive.is_none() {
        notes.arrived(&missing);
        missing.clear();
    }
    drop(sending);
    let name = &machine.name;
    let place = transport.place();
    let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
    stderr_line!("offloading '{}' to '{name}'{place}...", task.derivation);
    let trace = Trace::BuildRemote {
        derivation: task.derivation.as_str(),
        machine: name,
    };
    stderr::write_trace(&trace);
    let build = RemoteBuild {
        inline_archive,
        derivation: task.derivation,
        limits: &task.limits,
        outputs,
    };
    course.enter(Part::Building);
    transport.build(build, log)?;
    retrieve(
        host,
        machine,
        &mut *transport,
        task.derivation,
        outputs,
        course,
    )?;
    notes.arrived(missing.iter().chain(outputs));
    if let Err(error) = transport.finish() {
        // The outputs are here; the next hook removes what is left on the machine.
        stderr_line!("warning: {error}");
    }
    stderr_line!("done with offloaded '{}'", task.derivation);
    Ok(())
}

/// Has the machine fetch missing items from its substitute servers, if its entry allows that. No
/// lock is held meanwhile: nothing is sent, and a daemon fetches only once what several clients want.
fn have_it_fetch(
    host: &LocalHost<'_>,
    machine: &Machine,
    transport: &mut dyn Transport,
    missing: &[StorePath],
    task: &BuildTask<'_>,
    sizes: &mut Sizes<'_>,
) -> Result<Fetched, Error> {
    if !machine.use_substitutes {
        return Ok(Fetched::Nothing);
    }
    let mut items = Vec::new();
    for path in missing {
        let item = host.store.path_info(path)?;
        sizes.known.insert(path.clone(), item.nar_size);
        items.push(item);
    }
    let size: u64 = items.iter().map(|item| item.nar_size + ITEM_OVERHEAD).sum();
    if size <= INLINE_ARCHIVE_LIMIT as u64 {
        // It takes less time to send it than to look for substitutes.
        return Ok(Fetched::Nothing);
    }
    let began = Instant::now();
    let mut report = |text: &str| stderr_line!("{text}");
    let fetched = transport.fetch(&items, &task.limits, &mut report)?;
    if fetched == Fetched::Nothing {
        rates::fetched(host.directories, machine, size, 0, began.elapsed());
    }
    Ok(fetched)
}

/// The sizes of items in this host's store, in bytes. Each is looked up once.
struct Sizes<'a> {
    store: &'a Store,
    known: HashMap<StorePath, u64>,
}

impl Sizes<'_> {
    fn of(store: &Store) -> Sizes<'_> {
        Sizes {
            store,
            known: HashMap::new(),
        }
    }

    fn get(&mut self, path: &StorePath) -> Result<u64, Error> {
        if let Some(size) = self.known.get(path) {
            return Ok(*size);
        }
        let size = self.store.path_info(path)?.nar_size;
        self.known.insert(path.clone(), size);
        Ok(size)
    }

    fn sum(&mut self, items: &[StorePath]) -> Result<u64, Error> {
        items.iter().map(|path| self.get(path)).sum()
    }
}

/// Why a transfer lock could not be taken.
fn lock_error(direction: Direction, machine: &Machine) -> impl Fn(io::Error) -> Error {
    move |source| Error::Local {
        doing: format!(
            "waiting for the {} lock of '{}'",
            direction.name(),
            machine.name
        ),
        source,
    }
}

/// Sends missing items, or returns them as an archive if they are small enough to be sent together
/// with the request to build. What other hooks have sent since `last_upload` is not sent again.
fn send(
    host: &LocalHost<'_>,
    machine: &Machine,
    transport: &mut dyn Transport,
    (mut missing, known): (Vec<StorePath>, &mut Sizes<'_>),
    last_upload: &LastUpload,
    sending: &mut Option<Sending>,
    course: &mut Course,
) -> Result<Option<InlineArchive>, Error> {
    let store = host.store;
    let name = &machine.name;
    let waiting = || stderr_line!("waiting for what is being sent to '{name}'...");
    course.enter(Part::Waiting);
    let lock = UploadLock::take(host.directories, machine, last_upload, waiting)
        .map_err(lock_error(Direction::Upload, machine))?;
    course.enter(Part::Sending);
    if lock.is_outdated {
        missing = transport.missing(&missing)?;
        if missing.is_empty() {
            return Ok(None);
        }
    }
    let lock = lock.begin();
    let missing = missing.as_slice();
    let mut bytes = 0;
    let mut sizes = Vec::new();
    for path in missing {
        let size = known.get(path)?;
        bytes += size;
        sizes.extend(ItemId::of(path).map(|id| (size, id)));
    }
    *sending = sends::begin(host.directories, machine, bytes, sizes);
    let (count, size) = (missing.len(), bytes as f64 / f64::from(1 << 20));
    let items = if count == 1 { "item" } else { "items" };
    stderr_line!("sending {count} store {items} ({size:.1} MiB) to '{name}'...");
    let keys = Keys::new(&store.directories().configuration);
    if bytes + count as u64 * ITEM_OVERHEAD <= INLINE_ARCHIVE_LIMIT as u64 {
        let mut archive = Vec::new();
        store.export_items(missing, Some(&keys), &mut archive, &Quiet)?;
        course.bytes_sent += archive.len() as u64;
        if archive.len() <= INLINE_ARCHIVE_LIMIT {
            return Ok(Some(InlineArchive { archive, lock }));
        }
        transport.import(&mut archive.as_slice())?;
        return Ok(None);
    }
    let (mut writer, reader) = bounded_pipe();
    let mut reader = TransferProgress::new(reader, format!("sending to '{name}'"), Some(bytes));
    let began = Instant::now();
    let sent = std::thread::scope(|scope| {
        let exporter = scope.spawn(move || {
            let exported = store.export_items(missing, Some(&keys), &mut writer, &Quiet);
            drop(writer);
            exported
        });
        let imported = transport.import(&mut reader);
        course.bytes_sent += reader.done();
        // Makes the exporter's next write fail, in case the import ended early.
        drop(reader);
        let exported = exporter.join();
        match (imported, exported) {
            (Ok(()), _) => Ok(None),
            // If the export failed, the import only failed because the archive ended early.
            (Err(_), Ok(Err(error))) if error.errno() != Some(libc::EPIPE) => Err(error.into()),
            (Err(error), _) => Err(error.into()),
        }
    });
    if sent.is_ok() {
        rates::sent(host.directories, machine, bytes, began.elapsed());
    }
    sent
}

/// Whether an export failed because the reader of its archive has ended.
fn is_broken_pipe(error: &remote::Error) -> bool {
    matches!(error, remote::Error::Local { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// How many bytes the outputs of a build may have: as many as this store has room for. A machine
/// could go on for ever otherwise, and would be found out only when nobody here can work any more.
fn room(store: &Store) -> u64 {
    match statvfs(store.dir().as_path()) {
        Ok(numbers) => {
            let reserve = numbers.blocks() / 100;
            let blocks = numbers.blocks_available().saturating_sub(reserve);
            blocks.saturating_mul(numbers.fragment_size())
        }
        Err(_) => u64::MAX,
    }
}

/// A source that fails when more than some bytes have been read.
struct AtMost<R> {
    source: R,
    left: u64,
    is_exceeded: bool,
}

impl<R: Read> Read for AtMost<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                self.is_exceeded = true;
                return Err(io::Error::other("more than there is room for"));
            }
        }
        Ok(count)
    }
}

/// The hash of the contents of a fixed-output derivation's only output.
fn fixed_hash(store: &Store, derivation: &StorePath) -> Result<Option<FixedHash>, Error> {
    let read = store.read_derivation(derivation)?;
    let mut outputs = read.outputs.values();
    match (outputs.next(), outputs.next()) {
        (Some(only), None) => only.fixed_hash().map_err(|error| {
            let message = format!("output hash of `{derivation}': {error}");
            Error::Store(store::Error::Other(message))
        }),
        _ => Ok(None),
    }
}

/// What accepts the signatures of a machine: the keys of this host's ACL, or the one key that it has made
/// for this connection, if its entry says that this will do.
fn authority_for(
    store: &Store,
    machine: &Machine,
    transport: &dyn Transport,
) -> Result<Box<dyn Authority>, Error> {
    let trusts = |pool: &Pool| pool.trust == Trust::Connection;
    let by_connection = machine.pool.as_deref().is_some_and(trusts);
    match transport.key() {
        Some(key) if by_connection => {
            let key = SingleKey::parse(key).map_err(|reason| Error::Corrupt {
                machine: machine.name.clone(),
                source: store::Error::Other(reason),
            })?;
            Ok(Box::new(key))
        }
        _ => Ok(Box::new(Keys::new(&store.directories().configuration))),
    }
}

/// Fetches the outputs and registers them.
fn retrieve(
    host: &LocalHost<'_>,
    machine: &Machine,
    transport: &mut dyn Transport,
    derivation: &StorePath,
    outputs: &[StorePath],
    course: &mut Course,
) -> Result<(), Error> {
    let store = host.store;
    course.enter(Part::Waiting);
    let _lock = host_locks::lock_download(host.directories, machine)
        .map_err(lock_error(Direction::Download, machine))?;
    course.enter(Part::Retrieving);
    let count = outputs.len();
    let items = if count == 1 { "item" } else { "items" };
    stderr_line!(
        "retrieving {count} store {items} from '{}'...",
        machine.name
    );
    let (mut writer, reader) = bounded_pipe();
    let doing = format!("retrieving from '{}'", machine.name);
    let mut reader = AtMost {
        source: TransferProgress::new(reader, doing, None),
        left: room(store),
        is_exceeded: false,
    };
    let room = reader.left;
    let began = Instant::now();
    let keys = authority_for(store, machine, transport)?;
    let temp_roots = store.temp_roots();
    let fixed = fixed_hash(store, derivation)?;
    let options = ImportOptions {
        wanted: Some(outputs),
        fixed: fixed.as_ref(),
        temp_roots: &temp_roots,
        authority: Some(&*keys),
        // The daemon that runs this hook holds them.
        held_locks: outputs,
        progress: &Quiet,
    };
    let (exported, imported, bytes) = std::thread::scope(|scope| {
        let exporter = scope.spawn(move || {
            transport.export(outputs, &mut writer)?;
            writer.flush().map_err(|source| remote::Error::Local {
                doing: "retrieving store items".to_owned(),
                source,
            })
        });
        let imported = store.import_items(&mut reader, &options);
        let bytes = reader.source.done();
        course.bytes_retrieved += bytes;
        let is_exceeded = reader.is_exceeded;
        drop(reader);
        let exported = exporter.join();
        match imported {
            Err(_) if is_exceeded => Err(Error::TooMuch {
                machine: machine.name.clone(),
                room,
            }),
            imported => Ok((exported, imported, bytes)),
        }
    })?;
    let imported = match (exported, imported) {
        (_, Ok(imported)) => imported,
        // No machine can make an output that this store takes: the fault is the build's.
        (_, Err(source @ store::Error::DeepArchive(_))) => {
            let message: Box<str> = format!("its output cannot be taken: {source}").into();
            return Err(Error::Remote(remote::Error::Build {
                machine: machine.name.clone(),
                derivation: derivation.clone(),
                status: status::BUILD_FAILED,
                verdict: message.clone(),
                message,
            }));
        }
        // An export that failed with EPIPE is a consequence of the failed import, not its cause.
        (Ok(Err(error)), Err(source)) if !is_broken_pipe(&error) => match source.errno() {
            Some(libc::ENOSPC | libc::EDQUOT) => return Err(source.into()),
            _ => return Err(error.into()),
        },
        (_, Err(source)) => match source.errno() {
            Some(_) => return Err(source.into()),
            None => {
                return Err(Error::Corrupt {
                    machine: machine.name.clone(),
                    source,
                });
            }
        },
    };
    if let Some(missing) = outputs.iter().find(|output| !imported.contains(output)) {
        let source = store::Error::Other(format!("`{missing}' is not among it"));
        return Err(Error::Corrupt {
            machine: machine.name.clone(),
            source,
        });
    }
    rates::retrieved(host.directories, machine, bytes, began.elapsed());
    Ok(())
}
