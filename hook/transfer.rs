//! One derivation on one machine: what is missing there is sent, it is built, and the outputs
//! come home (`doc/spec/offload.md`, sections 11 to 20 and 26).

use std::collections::BTreeSet;
use std::io::{self, Write};

use authority::Keys;
use formats::StorePath;
use protocol::trace::Trace;
use store::{ImportOptions, Quiet, Store};

use crate::belt::belt;
use crate::machines::Machine;
use crate::remote::{self, Home, Limits, Order, PARCEL, Parcel, Transport};
use crate::say;
use crate::slots;

/// What an item takes in an archive besides its nar, about: names and a signature.
const SIGNATURE: u64 = 1 << 10;

/// Why it did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine, or the build on it.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// What the machine sent is not what it should be.
    #[error("what '{machine}' sent cannot be taken: {source}")]
    Corrupt {
        /// The machine.
        machine: String,
        /// What is wrong.
        source: store::Error,
    },
    /// Something on this side.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// Something on this side.
    #[error("while {doing}: {source}")]
    Local {
        /// What was attempted.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// The status of the remote daemon, if the build failed.
    pub fn is_build_failure(&self) -> Option<u32> {
        match self {
            Error::Remote(error) => error.is_build_failure(),
            _ => None,
        }
    }

    /// Whether another machine would do no better.
    pub fn is_local(&self) -> bool {
        match self {
            Error::Remote(error) => error.is_local(),
            Error::Corrupt { .. } => false,
            Error::Store(_) | Error::Local { .. } => true,
        }
    }
}

/// A derivation, what it needs and what it makes.
pub struct Work<'a> {
    /// The `.drv`.
    pub derivation: &'a StorePath,
    /// All that has to be on the machine, without it.
    pub inputs: &'a [StorePath],
    /// What is wanted.
    pub outputs: &'a [StorePath],
    /// Limits of the build.
    pub limits: Limits,
}

/// This host.
pub struct Here<'a> {
    /// Its store, opened when there is something to take from it.
    pub store: &'a Store,
    /// The hook's own directory.
    pub home: &'a Home,
}

/// Does the work on a machine, over a connection to its daemon. The build's log goes to `log`.
pub fn offload(
    here: &Here<'_>,
    machine: &Machine,
    mut remote: Box<dyn Transport>,
    work: &Work<'_>,
    log: &mut dyn Write,
) -> Result<(), Error> {
    let mut items: BTreeSet<StorePath> = work.inputs.iter().cloned().collect();
    items.insert(work.derivation.clone());
    let items = here.store.sort_topologically(&items)?;
    // First what must not go away, then the question what is there.
    let kept = [items.as_slice(), work.outputs].concat();
    let missing = remote.protect_and_ask(&kept, &items)?;
    let parcel = match missing.as_slice() {
        [] => None,
        missing => send(here, machine, &mut *remote, missing)?,
    };
    let name = &machine.name;
    say!("offloading '{}' to '{name}'...", work.derivation);
    let trace = Trace::BuildRemote {
        derivation: work.derivation.as_str(),
        machine: name,
    };
    say!("{trace}");
    let order = Order {
        parcel,
        derivation: work.derivation,
        limits: &work.limits,
        outputs: work.outputs,
    };
    remote.build(order, log)?;
    retrieve(here, machine, &mut *remote, work.outputs)?;
    if let Err(error) = remote.finish() {
        // The outputs are home; what is left there is found by the next hook.
        say!("warning: {error}");
    }
    say!("done with offloaded '{}'", work.derivation);
    Ok(())
}

fn transfer_lock(
    here: &Here<'_>,
    machine: &Machine,
    way: &str,
) -> Result<system::lock::LockFile, Error> {
    let name = format!("{}.{way}", machine.key());
    slots::wait_for(&here.home.directory, &name).map_err(|source| Error::Local {
        doing: format!("waiting for the {way} lock of '{}'", machine.name),
        source,
    })
}

/// Sends what is missing; or makes a parcel of it, if it is so little that it goes out with the
/// order to build.
fn send(
    here: &Here<'_>,
    machine: &Machine,
    remote: &mut dyn Transport,
    missing: &[StorePath],
) -> Result<Option<Parcel>, Error> {
    let store = here.store;
    let mut bytes = 0;
    for path in missing {
        bytes += store.path_info(path)?.nar_size;
    }
    let lock = transfer_lock(here, machine, "upload")?;
    let (count, size) = (missing.len(), bytes as f64 / f64::from(1 << 20));
    let items = if count == 1 { "item" } else { "items" };
    say!(
        "sending {count} store {items} ({size:.1} MiB) to '{}'...",
        machine.name
    );
    let keys = Keys::new(&store.directories().configuration);
    if bytes + count as u64 * SIGNATURE <= PARCEL as u64 {
        let mut archive = Vec::new();
        store.export_items(missing, Some(&keys), &mut archive, &Quiet)?;
        if archive.len() <= PARCEL {
            return Ok(Some(Parcel { archive, lock }));
        }
        remote.import(&mut archive.as_slice())?;
        return Ok(None);
    }
    let (mut writer, mut reader) = belt();
    std::thread::scope(|scope| {
        let exporter = scope.spawn(move || {
            let exported = store.export_items(missing, Some(&keys), &mut writer, &Quiet);
            drop(writer);
            exported
        });
        let imported = remote.import(&mut reader);
        // An exporter that still has something to say learns that nobody listens.
        drop(reader);
        let exported = exporter.join();
        match (imported, exported) {
            (Ok(()), _) => Ok(None),
            // Of what failed here, the other end only saw the archive stop.
            (Err(_), Ok(Err(error))) if error.errno() != Some(libc::EPIPE) => Err(error.into()),
            (Err(error), _) => Err(error.into()),
        }
    })
}

/// Whether it failed because what it wrote to was closed.
fn is_broken_pipe(error: &remote::Error) -> bool {
    matches!(error, remote::Error::Local { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

fn retrieve(
    here: &Here<'_>,
    machine: &Machine,
    remote: &mut dyn Transport,
    outputs: &[StorePath],
) -> Result<(), Error> {
    let store = here.store;
    let _lock = transfer_lock(here, machine, "download")?;
    let count = outputs.len();
    let items = if count == 1 { "item" } else { "items" };
    say!(
        "retrieving {count} store {items} from '{}'...",
        machine.name
    );
    let (mut writer, mut reader) = belt();
    let keys = Keys::new(&store.directories().configuration);
    let temp_roots = store.temp_roots();
    let options = ImportOptions {
        temp_roots: &temp_roots,
        authority: Some(&keys),
        // The daemon that asked us holds them.
        held_locks: outputs,
        progress: &Quiet,
    };
    let (exported, imported) = std::thread::scope(|scope| {
        let exporter = scope.spawn(move || {
            remote.export(outputs, &mut writer)?;
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
        // An exporter that nobody listens to any more is not why.
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
