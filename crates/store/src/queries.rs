//! Queries of the database; each uses an index.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;

use formats::derivation::{self, Derivation};
use formats::graph::{Worklist, topological_sort};
use formats::hash::Hash;
use formats::store_path::{HASH_LENGTH, StorePath};
use rusqlite::{Connection, OptionalExtension};
use system::clock::unix_time;

use crate::database::together;
use crate::error::{Context, Error, Result};
use crate::progress::{Progress, Quiet};
use crate::store::Store;

/// What is registered about a valid path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// SHA-256 of its nar.
    pub hash: Hash,
    /// When it was registered, in seconds since the epoch.
    pub registration_time: i64,
    /// The derivation that built it, if known.
    pub deriver: Option<StorePath>,
    /// The size of its nar in bytes; 0 if unknown.
    pub nar_size: u64,
    /// Its references, which may include itself.
    pub references: BTreeSet<StorePath>,
}

/// The direction of a closure, and the edges it follows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Closure {
    /// Follow referrers instead of references.
    pub reverse: bool,
    /// Follow edges from derivations to their valid outputs (in reverse: from outputs to valid
    /// derivers).
    pub include_outputs: bool,
    /// Follow edges from outputs to their derivers (in reverse: from derivations to their outputs).
    pub include_derivers: bool,
}

/// The columns of [`PathInfo`] from the table of paths.
const INFO: &str =
    "select id, hash, registrationTime, deriver, narSize from ValidPaths where path = ?";
/// The references of a path, given its row id.
const REFERENCES: &str =
    "select path from Refs join ValidPaths on reference = id where referrer = ?";
/// The referrers of a path.
const REFERRERS: &str = "select path from Refs join ValidPaths on referrer = id \
                         where reference = (select id from ValidPaths where path = ?)";

/// The number of its referrers.
const COUNT_REFERRERS: &str = "select count(*) from Refs \
                               where reference = (select id from ValidPaths where path = ?)";

impl Store {
    /// Whether the path is registered.
    pub fn is_valid(&self, path: &StorePath) -> Result<bool> {
        self.read("querying path in database", |connection| {
            valid_id(connection, path)
        })
        .map(|id| id.is_some())
    }

    /// Those of `paths` that are valid.
    pub fn query_valid_paths<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath>,
    ) -> Result<BTreeSet<StorePath>> {
        let paths: Vec<&StorePath> = paths.into_iter().collect();
        self.read("querying valid paths in database", |connection| {
            // In one transaction: beginning and ending one costs more than a query.
            let _transaction = together(connection)?;
            let mut valid = BTreeSet::new();
            for path in &paths {
                if valid_id(connection, path)?.is_some() {
                    valid.insert((*path).clone());
                }
            }
            Ok(valid)
        })
    }

    /// All valid paths, sorted.
    pub fn query_all_valid_paths(&self) -> Result<Vec<StorePath>> {
        self.read_paths(
            "querying valid paths in database",
            "select path from ValidPaths order by path",
            [],
        )
    }

    /// The number of valid paths.
    pub fn count_valid_paths(&self) -> Result<u64> {
        self.read("counting valid paths in database", |connection| {
            count(connection, "select count(*) from ValidPaths", [])
        })
    }

    /// The number of valid paths that refer to `path`.
    pub fn count_referrers(&self, path: &StorePath) -> Result<u64> {
        self.read("counting referrers in database", |connection| {
            count(connection, COUNT_REFERRERS, [path.as_str()])
        })
    }

    /// What is registered about the path; `None` if it isn't valid.
    pub fn query_path_info(&self, path: &StorePath) -> Result<Option<PathInfo>> {
        let action = "querying path in database";
        let found = self.read(action, |connection| {
            let mut statement = connection.prepare_cached(INFO)?;
            let mut rows = statement.query([path.as_str()])?;
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            let id: i64 = row.get(0)?;
            let hash: String = row.get(1)?;
            let registration_time: i64 = row.get(2)?;
            let deriver: Option<String> = row.get(3)?;
            let nar_size: Option<i64> = row.get(4)?;
            // The first statement is still active, so both see the same state of the database.
            let mut references = Vec::new();
            let mut statement = connection.prepare_cached(REFERENCES)?;
            let mut rows = statement.query([id])?;
            while let Some(row) = rows.next()? {
                references.push(row.get_ref(0)?.as_str()?.to_owned());
            }
            Ok(Some((
                hash,
                registration_time,
                deriver,
                nar_size,
                references,
            )))
        })?;
        let Some((hash, registration_time, deriver, nar_size, references)) = found else {
            return Ok(None);
        };
        let hash = Hash::parse_prefixed(&hash).map_err(|_| {
            Error::Other(format!(
                "corrupt hash `{hash}' in valid-path entry for `{path}'"
            ))
        })?;
        let deriver = match deriver {
            Some(deriver) if !deriver.is_empty() => Some(self.parse(&deriver)?),
            _ => None,
        };
        Ok(Some(PathInfo {
            path: path.clone(),
            hash,
            registration_time,
            deriver,
            nar_size: nar_size.map_or(0, |size| size as u64),
            references: references
                .iter()
                .map(|reference| self.parse(reference))
                .collect::<Result<_>>()?,
        }))
    }

    /// What is registered about the path, which has to be valid.
    pub fn path_info(&self, path: &StorePath) -> Result<PathInfo> {
        self.query_path_info(path)?
            .ok_or_else(|| Error::NotValid(path.clone()))
    }

    /// The references of a valid path.
    pub fn query_references(&self, path: &StorePath) -> Result<BTreeSet<StorePath>> {
        Ok(self.path_info(path)?.references)
    }

    /// The valid paths that refer to `path`, which may include itself.
    pub fn query_referrers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>> {
        self.read_paths("querying referrers in database", REFERRERS, [path.as_str()])
    }

    /// The recorded deriver of a valid path.
    pub fn query_deriver(&self, path: &StorePath) -> Result<Option<StorePath>> {
        Ok(self.path_info(path)?.deriver)
    }

    /// The valid derivations that have `path` as an output.
    pub fn query_valid_derivers(&self, path: &StorePath) -> Result<BTreeSet<StorePath>> {
        self.read_paths(
            "querying derivers in database",
            "select v.path from DerivationOutputs d join ValidPaths v on d.drv = v.id \
             where d.path = ?",
            [path.as_str()],
        )
    }

    /// The outputs of a valid derivation, by name.
    pub fn query_derivation_outputs(
        &self,
        path: &StorePath,
    ) -> Result<BTreeMap<String, StorePath>> {
        let found = self.read("querying derivation outputs in database", |connection| {
            let Some(id) = valid_id(connection, path)? else {
                return Ok(None);
            };
            let mut statement = connection
                .prepare_cached("select id, path from DerivationOutputs where drv = ?")?;
            let rows = statement.query_map([id], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>().map(Some)
        })?;
        found
            .ok_or_else(|| Error::NotValid(path.clone()))?
            .into_iter()
            .map(|(name, output)| Ok((name, self.parse(&output)?)))
            .collect()
    }

    /// The valid path whose base name begins with these 32 characters.
    pub fn query_path_from_hash_part(&self, hash_part: &str) -> Result<Option<StorePath>> {
        if hash_part.len() != HASH_LENGTH {
            return Err(Error::BadInput("invalid hash part".to_owned()));
        }
        let prefix = format!("{}/{hash_part}", self.dir());
        let found: Option<String> = self.read("finding path in database", |connection| {
            connection
                .prepare_cached("select path from ValidPaths where path >= ? limit 1")?
                .query_row([&prefix], |row| row.get(0))
                .optional()
        })?;
        match found {
            Some(path) if path.starts_with(&prefix) => self.parse(&path).map(Some),
            _ => Ok(None),
        }
    }

    /// The closure of `paths`, which includes themselves.
    pub fn compute_closure<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a StorePath>,
        how: Closure,
    ) -> Result<BTreeSet<StorePath>> {
        let mut worklist = Worklist::new(paths.into_iter().cloned());
        while let Some(path) = worklist.next() {
            worklist.extend(self.edges(&path, how)?);
        }
        Ok(worklist.into_found())
    }

    /// The paths that one step of a closure leads to.
    pub(crate) fn edges(&self, path: &StorePath, how: Closure) -> Result<BTreeSet<StorePath>> {
        let mut edges;
        if how.reverse {
            edges = self.query_referrers(path)?;
            if how.include_outputs {
                edges.extend(self.query_valid_derivers(path)?);
            }
            if how.include_derivers && path.is_derivation() {
                for output in self.query_derivation_outputs(path)?.into_values() {
                    let info = self.query_path_info(&output)?;
                    if info.is_some_and(|info| info.deriver.as_ref() == Some(path)) {
                        edges.insert(output);
                    }
                }
            }
        } else {
            let info = self.path_info(path)?;
            edges = info.references;
            if how.include_outputs && path.is_derivation() {
                let outputs = self.query_derivation_outputs(path)?;
                edges.extend(self.query_valid_paths(outputs.values())?);
            }
            if how.include_derivers {
                if let Some(deriver) = info.deriver {
                    if self.is_valid(&deriver)? {
                        edges.insert(deriver);
                    }
                }
            }
        }
        Ok(edges)
    }

    /// Sorts `paths` so that each comes after its references. Paths that aren't valid are treated
    /// as having no references. An error if there is a cycle.
    pub fn sort_topologically(&self, paths: &BTreeSet<StorePath>) -> Result<Vec<StorePath>> {
        let mut references = BTreeMap::new();
        for path in paths {
            let found = self.query_path_info(path)?.map(|info| info.references);
            references.insert(path.clone(), found.unwrap_or_default());
        }
        Ok(topological_sort(&references)?)
    }

    /// The size of the text of the derivation `path` (which should be valid), in bytes.
    pub fn derivation_size(&self, path: &StorePath) -> Result<u64> {
        let stat = self.inner.root.stat_at(path.base_name());
        let stat = stat.context(|| format!("getting attributes of path `{path}'"))?;
        Ok(stat.size())
    }

    /// Reads the derivation `path` (which should be valid).
    pub fn read_derivation(&self, path: &StorePath) -> Result<Derivation> {
        let failed = || format!("reading file `{path}'");
        let file = self
            .inner
            .root
            .open_file(path.base_name())
            .context(failed)?;
        let mut text = Vec::new();
        file.take(derivation::MAX_SIZE)
            .read_to_end(&mut text)
            .context(failed)?;
        Derivation::parse(&text, self.dir())
            .map_err(|error| Error::BadInput(format!("error parsing derivation `{path}': {error}")))
    }

    /// The hash of a derivation modulo its inputs, which have to be valid.
    pub(crate) fn resolve_modulo(
        &self,
        path: &StorePath,
        also_valid: &HashMap<StorePath, Derivation>,
    ) -> std::result::Result<Hash, derivation::Error> {
        self.with_modulo(|known| {
            known.get(path, |path| {
                if let Some(derivation) = also_valid.get(path) {
                    return Ok(derivation.clone());
                }
                if !self.is_valid(path)? {
                    return Err(Error::NotValid(path.clone()));
                }
                self.read_derivation(path)
            })
        })
    }

    /// Records that the build of `path` failed.
    pub fn register_failed_path(&self, path: &StorePath) -> Result<()> {
        self.write("registering failed path", &Quiet, |connection| {
            connection
                .prepare_cached("insert or ignore into FailedPaths (path, time) values (?, ?)")?
                .execute((path.as_str(), unix_time() as i64))?;
            Ok(())
        })
    }

    /// Whether a failed build of `path` is recorded.
    pub fn has_path_failed(&self, path: &StorePath) -> Result<bool> {
        self.read("querying if path failed", |connection| {
            connection
                .prepare_cached("select time from FailedPaths where path = ?")?
                .exists([path.as_str()])
        })
    }

    /// All paths with a recorded failed build.
    pub fn query_failed_paths(&self) -> Result<BTreeSet<StorePath>> {
        self.read_paths("querying failed paths", "select path from FailedPaths", [])
    }

    /// Forgets failures: of paths, of all outputs of derivations, or with `*`, of everything.
    pub fn clear_failed_paths<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let paths: Vec<&str> = paths.into_iter().collect();
        self.write("clearing failed paths", &Quiet, |connection| {
            for path in &paths {
                if *path == "*" {
                    connection
                        .prepare_cached("delete from FailedPaths")?
                        .execute([])?;
                    continue;
                }
                connection
                    .prepare_cached(
                        "delete from FailedPaths where path = ?1 or path in \
                         (select d.path from DerivationOutputs d join ValidPaths v \
                          on d.drv = v.id where v.path = ?1)",
                    )?
                    .execute([path])?;
            }
            Ok(())
        })
    }

    /// Runs a query.
    pub(crate) fn read<T>(
        &self,
        action: &str,
        mut question: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.database()?.read(action, |connection| {
            question(connection).map_err(|error| Error::database(action, error))
        })
    }

    /// Makes a change in a transaction.
    pub(crate) fn write<T>(
        &self,
        action: &str,
        progress: &dyn Progress,
        mut change: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.database()?.write(action, progress, |connection| {
            change(connection).map_err(|error| Error::database(action, error))
        })
    }

    /// Runs a query whose result is a column of paths.
    fn read_paths<P: rusqlite::Params + Copy, C: FromIterator<StorePath>>(
        &self,
        action: &str,
        query: &str,
        parameters: P,
    ) -> Result<C> {
        let texts = self.read(action, |connection| {
            let mut statement = connection.prepare_cached(query)?;
            let rows = statement.query_map(parameters, |row| row.get::<_, String>(0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        texts.iter().map(|text| self.parse(text)).collect()
    }

    /// Parses a path from the database.
    pub(crate) fn parse(&self, path: &str) -> Result<StorePath> {
        self.dir()
            .parse(path)
            .map_err(|error| Error::Other(error.to_string()))
    }
}

/// The result of a query for a number.
fn count(
    connection: &Connection,
    query: &str,
    parameters: impl rusqlite::Params,
) -> rusqlite::Result<u64> {
    let number: i64 = connection
        .prepare_cached(query)?
        .query_row(parameters, |row| row.get(0))?;
    Ok(number.unsigned_abs())
}

/// The row id of a valid path.
pub(crate) fn valid_id(connection: &Connection, path: &StorePath) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("select id from ValidPaths where path = ?")?
        .query_row([path.as_str()], |row| row.get(0))
        .optional()
}
