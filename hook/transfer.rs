//! Building one derivation on one machine: missing inputs are sent, it is built, and the outputs
//! are fetched (`doc/spec/offload.md`, sections 11 to 20 and 26).

use std::collections::BTreeSet;
use std::io::{self, Write};

use authority::Keys;
use formats::StorePath;
use protocol::frames::status;
use protocol::trace::Trace;
use store::{ImportOptions, Quiet, Store};

use crate::bounded_pipe::bounded_pipe;
use crate::directories::HookDirectories;
use crate::host_locks::{self, Direction};
use crate::machines::Machine;
use crate::remote::{
    self, BuildLimits, INLINE_ARCHIVE_LIMIT, InlineArchive, RemoteBuild, Transport,
};
use crate::{stderr, stderr_line};

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

    /// Whether this host is at fault, so that no other machine would succeed.
    pub fn is_local(&self) -> bool {
        match self {
            Error::Remote(error) => error.is_local(),
            Error::Corrupt { .. } => false,
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

/// Builds on a machine, over a connection to its daemon. The build's log is written to `log`.
pub fn offload(
    host: &LocalHost<'_>,
    machine: &Machine,
    mut transport: Box<dyn Transport>,
    task: &BuildTask<'_>,
    log: &mut dyn Write,
) -> Result<(), Error> {
    let mut items: BTreeSet<StorePath> = task.inputs.iter().cloned().collect();
    items.insert(task.derivation.clone());
    let items = host.store.sort_topologically(&items)?;
    // What is valid there must be protected before we ask for it.
    let kept = [items.as_slice(), task.outputs].concat();
    let missing = transport.protect_and_ask(&kept, &items)?;
    let inline_archive = match missing.as_slice() {
        [] => None,
        missing => send(host, machine, &mut *transport, missing)?,
    };
    let name = &machine.name;
    stderr_line!("offloading '{}' to '{name}'...", task.derivation);
    let trace = Trace::BuildRemote {
        derivation: task.derivation.as_str(),
        machine: name,
    };
    stderr::write_trace(&trace);
    let build = RemoteBuild {
        inline_archive,
        derivation: task.derivation,
        limits: &task.limits,
        outputs: task.outputs,
    };
    transport.build(build, log)?;
    retrieve(
        host,
        machine,
        &mut *transport,
        task.derivation,
        task.outputs,
    )?;
    if let Err(error) = transport.finish() {
        // The outputs are here; the next hook removes what is left on the machine.
        stderr_line!("warning: {error}");
    }
    stderr_line!("done with offloaded '{}'", task.derivation);
    Ok(())
}

fn transfer_lock(
    host: &LocalHost<'_>,
    machine: &Machine,
    direction: Direction,
) -> Result<system::lock::LockFile, Error> {
    host_locks::lock_transfer(host.directories, machine, direction).map_err(|source| Error::Local {
        doing: format!(
            "waiting for the {} lock of '{}'",
            direction.name(),
            machine.name
        ),
        source,
    })
}

/// Sends missing items, or returns them as an archive if they are small enough to be sent together
/// with the request to build.
fn send(
    host: &LocalHost<'_>,
    machine: &Machine,
    transport: &mut dyn Transport,
    missing: &[StorePath],
) -> Result<Option<InlineArchive>, Error> {
    let store = host.store;
    let mut bytes = 0;
    for path in missing {
        bytes += store.path_info(path)?.nar_size;
    }
    let lock = transfer_lock(host, machine, Direction::Upload)?;
    let (count, size) = (missing.len(), bytes as f64 / f64::from(1 << 20));
    let items = if count == 1 { "item" } else { "items" };
    stderr_line!(
        "sending {count} store {items} ({size:.1} MiB) to '{}'...",
        machine.name
    );
    let keys = Keys::new(&store.directories().configuration);
    if bytes + count as u64 * ITEM_OVERHEAD <= INLINE_ARCHIVE_LIMIT as u64 {
        let mut archive = Vec::new();
        store.export_items(missing, Some(&keys), &mut archive, &Quiet)?;
        if archive.len() <= INLINE_ARCHIVE_LIMIT {
            return Ok(Some(InlineArchive { archive, lock }));
        }
        transport.import(&mut archive.as_slice())?;
        return Ok(None);
    }
    let (mut writer, mut reader) = bounded_pipe();
    std::thread::scope(|scope| {
        let exporter = scope.spawn(move || {
            let exported = store.export_items(missing, Some(&keys), &mut writer, &Quiet);
            drop(writer);
            exported
        });
        let imported = transport.import(&mut reader);
        // Makes the exporter's next write fail, in case the import ended early.
        drop(reader);
        let exported = exporter.join();
        match (imported, exported) {
            (Ok(()), _) => Ok(None),
            // If the export failed, the import only failed because the archive ended early.
            (Err(_), Ok(Err(error))) if error.errno() != Some(libc::EPIPE) => Err(error.into()),
            (Err(error), _) => Err(error.into()),
        }
    })
}

/// Whether an export failed because the reader of its archive has ended.
fn is_broken_pipe(error: &remote::Error) -> bool {
    matches!(error, remote::Error::Local { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

/// Fetches the outputs and registers them.
fn retrieve(
    host: &LocalHost<'_>,
    machine: &Machine,
    transport: &mut dyn Transport,
    derivation: &StorePath,
    outputs: &[StorePath],
) -> Result<(), Error> {
    let store = host.store;
    let _lock = transfer_lock(host, machine, Direction::Download)?;
    let count = outputs.len();
    let items = if count == 1 { "item" } else { "items" };
    stderr_line!(
        "retrieving {count} store {items} from '{}'...",
        machine.name
    );
    let (mut writer, mut reader) = bounded_pipe();
    let keys = Keys::new(&store.directories().configuration);
    let temp_roots = store.temp_roots();
    let options = ImportOptions {
        wanted: Some(outputs),
        temp_roots: &temp_roots,
        authority: Some(&keys),
        // The daemon that runs this hook holds them.
        held_locks: outputs,
        progress: &Quiet,
    };
    let (exported, imported) = std::thread::scope(|scope| {
        let exporter = scope.spawn(move || {
            transport.export(outputs, &mut writer)?;
            writer.flush().map_err(|source| remote::Error::Local {
                doing: "retrieving store items".to_owned(),
                source,
            })
        });
        let imported = store.import_items(&mut reader, &options);
        drop(reader);
        (exporter.join(), imported)
    });
    let imported = match (exported, imported) {
        (_, Ok(imported)) => imported,
        // No machine can make an output that this store takes: the fault is the build's.
        (_, Err(source @ store::Error::DeepArchive(_))) => {
            return Err(Error::Remote(remote::Error::Build {
                machine: machine.name.clone(),
                derivation: derivation.clone(),
                status: status::BUILD_FAILED,
                message: format!("its output cannot be taken: {source}"),
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
    Ok(())
}
