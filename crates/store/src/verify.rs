//! Checking that the database and the store directory agree.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;

use formats::graph::{Worklist, topological_sort};
use formats::store_path::StorePath;
use system::lock::Mode;
use system::sync::Mutex;
use system::tree::{Descend, Visit, Visited, walk};

use crate::canonical::InodesSeen;
use crate::error::{Context, Result, from_tree};
use crate::progress::{Level, Progress, Quiet, check, say};
use crate::store::Store;

/// Repairs an item (with a substitute or a build); the error is a message for users.
pub type Repair<'a> = dyn Fn(&StorePath) -> std::result::Result<(), String> + 'a;

/// What to verify.
#[derive(Clone, Copy, Default)]
pub struct VerifyRequest<'a> {
    /// Whether to check the hashes of contents, too.
    pub contents: bool,
    /// How to repair items, if wanted.
    pub repair: Option<&'a Repair<'a>>,
}

/// Which items were found to match their registered hashes. Used for a single request, to avoid
/// reading anything twice; an intact item may be damaged tomorrow.
#[derive(Debug, Default)]
pub struct Checked(Mutex<HashMap<StorePath, bool>>);

impl Checked {
    /// Records that the path was rebuilt.
    pub fn mark_good(&self, path: &StorePath) {
        self.0.lock().insert(path.clone(), true);
    }
}

impl Store {
    /// Checks the store and returns whether errors remain. Each error is reported to `progress`.
    pub fn verify(&self, request: &VerifyRequest<'_>, progress: &dyn Progress) -> Result<bool> {
        progress.message(Level::Error, "reading the store...");
        // Held only while checking which paths exist: hashing contents takes long and would block
        // others.
        let gc_lock = self.gc_lock(Mode::Exclusive, progress)?;
        let mut errors = false;
        let (present, needed) = self.check_existence(progress)?;
        // Repairing adds temporary roots, which takes the lock.
        drop(gc_lock);
        for path in &needed {
            check(progress)?;
            match request.repair.map(|repair| repair(path)) {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    progress.message(Level::Error, &format!("warning: {error}"));
                    errors = true;
                }
                None => errors = true,
            }
        }
        if request.contents {
            say(progress, Level::Info, || "checking hashes...".to_owned());
            for path in &present {
                check(progress)?;
                if let Err(error) = self.check_contents(path, request, progress, &mut errors) {
                    // It may have been collected meanwhile.
                    let kind = if self.is_valid(path)? {
                        "error"
                    } else {
                        "warning"
                    };
                    progress.message(Level::Error, &format!("{kind}: {error}"));
                    errors = true;
                }
            }
        }
        Ok(errors)
    }

    /// The valid paths that exist, and those that are missing but have existing referrers. The
    /// other missing ones are invalidated.
    fn check_existence(&self, progress: &dyn Progress) -> Result<(Vec<StorePath>, Vec<StorePath>)> {
        let reading = || format!("reading directory `{}'", self.dir());
        let mut names = HashSet::new();
        for entry in self.inner.root.entries().context(reading)? {
            names.insert(entry.context(reading)?.name);
        }
        say(progress, Level::Info, || {
            "checking path existence...".to_owned()
        });
        let texts = self.read("querying valid paths in database", |connection| {
            let mut statement =
                connection.prepare_cached("select path from ValidPaths order by path")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let (mut present, mut missing) = (Vec::new(), BTreeSet::new());
        for text in texts {
            match self.dir().parse(&text) {
                // A path that was added since the directory was read exists, too.
                Ok(path) => match names.contains(std::ffi::OsStr::new(path.base_name()))
                    || self.exists(&path)?
                {
                    true => present.push(path),
                    false => drop(missing.insert(path)),
                },
                Err(error) => {
                    progress.message(Level::Error, &error.to_string());
                    self.forget(&text)?;
                }
            }
        }
        let needed = self.settle_missing(&missing, progress)?;
        Ok((present, needed))
    }

    /// Whether the path's base name exists in the store directory.
    fn exists(&self, path: &StorePath) -> Result<bool> {
        let stat = self.inner.root.try_stat_at(path.base_name());
        let stat = stat.context(|| format!("getting attributes of path `{path}'"))?;
        Ok(stat.is_some())
    }

    /// Invalidates missing paths, except those with existing referrers.
    fn settle_missing(
        &self,
        missing: &BTreeSet<StorePath>,
        progress: &dyn Progress,
    ) -> Result<Vec<StorePath>> {
        let mut still_needed = Vec::new();
        // A missing path has to stay valid if a path that exists, or stays valid, refers to it.
        let mut references = BTreeMap::new();
        let mut worklist = Worklist::new([]);
        for path in missing {
            references.insert(path.clone(), self.query_references(path)?);
            if self
                .query_referrers(path)?
                .iter()
                .any(|referrer| !missing.contains(referrer))
            {
                worklist.extend([path.clone()]);
            }
        }
        while let Some(path) = worklist.next() {
            if let Some(next) = references.get(&path) {
                worklist.extend(next.intersection(missing).cloned());
            }
        }
        let needed = worklist.into_found();
        for path in topological_sort(&references)?.into_iter().rev() {
            check(progress)?;
            if !needed.contains(&path) {
                progress.message(
                    Level::Error,
                    &format!("path `{path}' disappeared, removing from database..."),
                );
                self.forget(path.as_str())?;
                continue;
            }
            progress.message(
                Level::Error,
                &format!("path `{path}' disappeared, but it still has valid referrers!"),
            );
            still_needed.push(path);
        }
        Ok(still_needed)
    }

    /// Compares an item with its registered hash.
    fn check_contents(
        &self,
        path: &StorePath,
        request: &VerifyRequest<'_>,
        progress: &dyn Progress,
        errors: &mut bool,
    ) -> Result<()> {
        let info = self.path_info(path)?;
        say(progress, Level::Talkative, || {
            format!("checking contents of `{path}'")
        });
        let (hash, size) = self.hash_item(path, progress)?;
        let unknown = info.hash.bytes().iter().all(|byte| *byte == 0);
        if !unknown && info.hash != hash {
            progress.message(
                Level::Error,
                &format!(
                    "path `{path}' was modified! expected hash `{}', got `{}'",
                    info.hash.hex(),
                    hash.hex()
                ),
            );
            match request.repair {
                Some(repair) => repair(path).map_err(crate::error::Error::Other)?,
                None => *errors = true,
            }
            return Ok(());
        }
        self.check_attributes(path, request.repair.is_some(), progress, errors)?;
        if unknown {
            progress.message(Level::Error, &format!("fixing missing hash on `{path}'"));
        }
        if info.nar_size == 0 {
            progress.message(
                Level::Error,
                &format!("updating size field on `{path}' to {size}"),
            );
        }
        if unknown || info.nar_size == 0 {
            let known_size = if info.nar_size == 0 {
                size
            } else {
                info.nar_size
            };
            self.update_contents(path, &hash, known_size)?;
        }
        Ok(())
    }

    /// Looks for access control lists and extended attributes, which items from earlier versions of
    /// this daemon, or from Guix's, can have, and with `repair` removes them.
    fn check_attributes(
        &self,
        path: &StorePath,
        repair: bool,
        progress: &dyn Progress,
        errors: &mut bool,
    ) -> Result<()> {
        let mut search = ForeignAttributes::default();
        walk(&self.inner.root, path.base_name(), &mut search)
            .map_err(|error| from_tree(error, self.dir().as_path()))?;
        let Some((file, attribute)) = search.first else {
            return Ok(());
        };
        let file = self.dir().as_path().join(file);
        let (file, files) = (file.display(), search.files);
        progress.message(
            Level::Error,
            &format!(
                "path `{path}' has extended attributes or access control lists, which store items \
                 do not have: {files} file(s), such as `{file}' with `{attribute}'"
            ),
        );
        if !repair {
            *errors = true;
            return Ok(());
        }
        self.canonicalise(path.as_path(), None, &mut InodesSeen::new(), progress)?;
        progress.message(Level::Error, &format!("removed them from `{path}'"));
        Ok(())
    }

    /// Whether a valid path exists with the registered contents; cached in `checked`.
    pub fn path_contents_good(
        &self,
        path: &StorePath,
        checked: &Checked,
        progress: &dyn Progress,
    ) -> Result<bool> {
        if let Some(known) = checked.0.lock().get(path) {
            return Ok(*known);
        }
        say(progress, Level::Info, || {
            format!("checking path `{path}'...")
        });
        let info = self.path_info(path)?;
        let exists = self
            .inner
            .root
            .try_stat_at(path.base_name())
            .context(|| format!("getting status of `{path}'"))?
            .is_some();
        let unknown = info.hash.bytes().iter().all(|byte| *byte == 0);
        let good = exists && (unknown || self.hash_item(path, progress)?.0 == info.hash);
        if good {
            self.check_attributes(path, true, progress, &mut false)?;
        }
        checked.0.lock().insert(path.clone(), good);
        if !good {
            progress.message(
                Level::Error,
                &format!("path `{path}' is corrupted or missing!"),
            );
        }
        Ok(good)
    }

    /// Removes a path without referrers from the database.
    fn forget(&self, path: &str) -> Result<()> {
        self.write("invalidating path in database", &Quiet, |connection| {
            connection
                .prepare_cached("delete from ValidPaths where path = ?")?
                .execute([path])
                .map(|_| ())
        })
    }
}

/// Looks for attributes that [`Store::canonicalise`] would remove.
#[derive(Default)]
struct ForeignAttributes {
    /// The first file that has any, and one of its attributes.
    first: Option<(PathBuf, String)>,
    files: u64,
}

impl Visit for ForeignAttributes {
    fn visit(&mut self, file: &Visited<'_>) -> io::Result<Descend> {
        if let Some(attribute) = file.parent.foreign_attributes_at(file.name)?.first() {
            self.files += 1;
            let named = || (file.path(), attribute.to_string_lossy().into_owned());
            self.first.get_or_insert_with(named);
        }
        Ok(Descend::Into)
    }

    fn action(&self) -> &'static str {
        "look for extended attributes of"
    }
}
