//! Registering and invalidating paths.
//!
//! A registration is one transaction (`doc/spec/store-formats.md`, section 8). Either all its paths
//! become valid, or none: their references must be valid, the outputs of derivations must have the
//! computed paths, and there must be no cycles.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use formats::derivation::Derivation;
use formats::graph::topological_sort;
use formats::hash::Hash;
use formats::store_path::StorePath;
use rusqlite::Connection;
use system::clock::unix_time;

use crate::error::{Error, Result};
use crate::progress::{Progress, Quiet};
use crate::queries::valid_id;
use crate::store::Store;

/// A path to register: complete, canonical and in place.
#[derive(Clone, Debug)]
pub struct NewPath {
    /// The path.
    pub path: StorePath,
    /// SHA-256 of its nar.
    pub hash: Hash,
    /// The size of its nar in bytes.
    pub nar_size: u64,
    /// Its references; each has to be valid or registered at the same time.
    pub references: BTreeSet<StorePath>,
    /// The derivation that built it, if known.
    pub deriver: Option<StorePath>,
    /// The time of registration, in seconds since the epoch; `None` for now.
    pub registration_time: Option<i64>,
}

/// The derivations among the paths of a registration.
type Derivations = HashMap<StorePath, Derivation>;

impl Store {
    /// Registers all of `paths`, or none. Derivations among them are read and checked; cycles are
    /// refused. Paths that are already valid get the new hash, size and references.
    pub fn register_valid_paths(&self, paths: &[NewPath]) -> Result<()> {
        let mut derivations = HashMap::new();
        for new in paths.iter().filter(|new| new.path.is_derivation()) {
            derivations.insert(new.path.clone(), self.read_derivation(&new.path)?);
        }
        self.register(paths, &derivations, &Quiet)
    }

    /// Like [`Store::register_valid_paths`], with derivations that were already read.
    pub(crate) fn register(
        &self,
        paths: &[NewPath],
        derivations: &Derivations,
        progress: &dyn Progress,
    ) -> Result<()> {
        for (path, derivation) in derivations {
            derivation
                .check_outputs(path, self.dir(), |input| {
                    self.resolve_modulo(input, derivations)
                })
                .map_err(|error| Error::BadInput(error.to_string()))?;
        }
        if self.options().sync_before_registering {
            nix::unistd::sync();
        }
        let action = "registering valid paths in database";
        self.database()?.write(action, progress, |connection| {
            insert_all(connection, action, paths, derivations)
        })
    }

    /// Invalidates `path`, to which no other valid path may refer. Its files stay.
    pub fn invalidate(&self, path: &StorePath) -> Result<()> {
        let action = "invalidating path in database";
        let failed = |error| Error::database(action, error);
        let mut in_use = Vec::new();
        self.database()?.write(action, &Quiet, |connection| {
            in_use = referrers(connection, path).map_err(failed)?;
            if in_use.is_empty() {
                connection
                    .prepare_cached("delete from ValidPaths where path = ?")
                    .and_then(|mut statement| statement.execute([path.as_str()]))
                    .map_err(failed)?;
            }
            Ok(())
        })?;
        if in_use.is_empty() {
            return Ok(());
        }
        let quoted: Vec<String> = in_use.iter().map(|path| format!("`{path}'")).collect();
        Err(Error::InUse {
            path: path.clone(),
            referrers: quoted.join(", "),
        })
    }

    /// Updates the registered hash and size of a valid path.
    pub(crate) fn update_contents(&self, path: &StorePath, hash: &Hash, size: u64) -> Result<()> {
        self.write("updating path info in database", &Quiet, |connection| {
            update(connection, path, hash, size).map(|_| ())
        })
    }
}

/// The valid paths that refer to `path`, except itself.
fn referrers(connection: &Connection, path: &StorePath) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(
        "select path from Refs join ValidPaths on referrer = id \
         where reference = (select id from ValidPaths where path = ?1) and path != ?1",
    )?;
    let rows = statement.query_map([path.as_str()], |row| row.get(0))?;
    rows.collect()
}

fn insert_all(
    connection: &Connection,
    action: &str,
    paths: &[NewPath],
    derivations: &Derivations,
) -> Result<()> {
    let failed = |error| Error::database(action, error);
    let mut ids: HashMap<StorePath, i64> = HashMap::with_capacity(paths.len());
    let mut existed = false;
    for new in paths {
        let id = match valid_id(connection, &new.path).map_err(failed)? {
            Some(id) => {
                existed = true;
                update(connection, &new.path, &new.hash, new.nar_size).map_err(failed)?;
                id
            }
            None => insert(connection, new, derivations.get(&new.path)).map_err(failed)?,
        };
        ids.insert(new.path.clone(), id);
    }
    for new in paths {
        let referrer = ids[&new.path];
        for reference in &new.references {
            let id = match ids.get(reference) {
                Some(id) => *id,
                None => valid_id(connection, reference)
                    .map_err(failed)?
                    .ok_or_else(|| Error::NotValid(reference.clone()))?,
            };
            connection
                .prepare_cached("insert or replace into Refs (referrer, reference) values (?, ?)")
                .and_then(|mut statement| statement.execute([referrer, id]))
                .map_err(failed)?;
        }
    }
    // New paths are only referred to by each other, so a cycle needs at least two paths, or one
    // that was registered before.
    if paths.len() > 1 || existed {
        let mut graph: BTreeMap<StorePath, BTreeSet<StorePath>> = BTreeMap::new();
        for new in paths {
            let edges = graph.entry(new.path.clone()).or_default();
            if existed {
                edges.extend(registered_references(connection, &new.path, &ids).map_err(failed)?);
            } else {
                edges.extend(new.references.iter().cloned());
            }
        }
        topological_sort(&graph)?;
    }
    Ok(())
}

/// Those of the paths in `among` to which `path` refers in the database.
fn registered_references(
    connection: &Connection,
    path: &StorePath,
    among: &HashMap<StorePath, i64>,
) -> rusqlite::Result<Vec<StorePath>> {
    let mut statement = connection.prepare_cached(
        "select path from Refs join ValidPaths on reference = id where referrer = ?",
    )?;
    let mut rows = statement.query([among[path]])?;
    let mut references = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some((known, _)) = among.get_key_value(row.get_ref(0)?.as_str()?) {
            references.push(known.clone());
        }
    }
    Ok(references)
}

fn insert(
    connection: &Connection,
    new: &NewPath,
    derivation: Option<&Derivation>,
) -> rusqlite::Result<i64> {
    let id = connection
        .prepare_cached(
            "insert into ValidPaths (path, hash, registrationTime, deriver, narSize) \
             values (?, ?, ?, ?, ?)",
        )?
        .insert((
            new.path.as_str(),
            new.hash.to_string(),
            new.registration_time
                .filter(|time| *time != 0)
                .unwrap_or_else(|| unix_time() as i64),
            new.deriver.as_ref().map(StorePath::as_str),
            size_column(new.nar_size),
        ))?;
    for (name, output) in derivation.iter().flat_map(|derivation| &derivation.outputs) {
        connection
            .prepare_cached(
                "insert or replace into DerivationOutputs (drv, id, path) values (?, ?, ?)",
            )?
            .execute((id, name, output.path.as_str()))?;
    }
    Ok(id)
}

fn update(
    connection: &Connection,
    path: &StorePath,
    hash: &Hash,
    size: u64,
) -> rusqlite::Result<usize> {
    connection
        .prepare_cached("update ValidPaths set narSize = ?, hash = ? where path = ?")?
        .execute((size_column(size), hash.to_string(), path.as_str()))
}

/// A size of 0 means unknown.
fn size_column(size: u64) -> Option<i64> {
    i64::try_from(size).ok().filter(|size| *size != 0)
}
