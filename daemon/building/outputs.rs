//! The outputs of a build: checked, made canonical, moved to the store and registered
//! (`doc/spec/build-environment.md`, sections 8 and 10).

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bstr::ByteSlice;
use formats::derivation::{FixedHash, Output};
use formats::hash::{Hash, Hasher};
use formats::store_path::StorePath;
use protocol::operations::BuildMode;
use protocol::trace::Trace;
use store::{Closure, FileHashes, InodesSeen, NewPath};

use super::attempt_error::{AttemptError, rejected};
use super::deadline::Deadline;
use super::files::{self, failed};
use super::job::Job;
use crate::request_error::RequestError;

/// How much of a file is hashed at a time, in bytes.
const PIECE: usize = 256 << 10;

/// The part of a round in a build of several rounds.
pub(super) struct Round<'a> {
    /// Whether the outputs are registered after this round.
    pub(super) last: bool,
    /// The outputs of the previous round, which these must equal.
    pub(super) previous: Option<&'a [Produced]>,
}

/// An output that has passed the checks.
pub(super) struct Produced {
    info: NewPath,
    files: FileHashes,
}

/// The builder of outputs.
#[derive(Clone, Copy)]
pub(super) struct Maker {
    /// The user who must own their files.
    pub(super) uid: u32,
    /// Whether it could reach other processes of this machine, by sockets that have a name in the
    /// file system, and so may have handed descriptors to them.
    pub(super) reaches_others: bool,
}

/// Moves the outputs from where they were built (`place`) to the store. `maker` is `None` for the
/// outputs of a hook, whose owner isn't checked.
pub(super) fn take(
    job: &Job,
    deadline: &Deadline<'_>,
    missing: &BTreeSet<StorePath>,
    place: &dyn Fn(&StorePath) -> PathBuf,
    maker: Option<Maker>,
    round: &Round<'_>,
) -> Result<Vec<Produced>, AttemptError> {
    let mut taker = Taker {
        job,
        deadline,
        owner: maker.map(|maker| maker.uid),
    };
    if let Some(maker) = maker {
        if job.is_fixed_output() || maker.reaches_others {
            taker.take_away(missing, place)?;
        }
    }
    let mut candidates: BTreeSet<StorePath> = (*job.input_closure()?).clone();
    candidates.extend(job.outputs().map(|(_, path)| path.clone()));
    let mut seen = InodesSeen::new();
    let mut produced = Vec::new();
    for output in job
        .derivation
        .outputs
        .values()
        .filter(|output| missing.contains(&output.path))
    {
        if let Some(one) = taker.take_one(output, &place(&output.path), &candidates, &mut seen)? {
            produced.push(one);
        }
    }
    if job.mode == BuildMode::Check {
        return Ok(produced);
    }
    if let Some(previous) = round.previous {
        compare(job, previous, &produced)?;
    }
    if job.session.keep_failed {
        for (_, output) in job.outputs() {
            let kept = suffixed(output);
            files::remove(&kept)?;
            if !round.last && files::exists(output.as_path())? {
                files::rename(output.as_path(), &kept)?;
            }
        }
    }
    if round.last {
        taker.register(&produced)?;
    } else {
        for one in &produced {
            files::remove(one.info.path.as_path())?;
        }
    }
    Ok(produced)
}

/// Where to keep an output that differs from the expected one.
fn suffixed(path: &StorePath) -> PathBuf {
    PathBuf::from(format!("{path}-check"))
}

struct Taker<'a> {
    job: &'a Job,
    deadline: &'a Deadline<'a>,
    owner: Option<u32>,
}

impl Taker<'_> {
    /// Makes the outputs the daemon's, so that nobody can write to them any more. A process that
    /// escaped from the sandbox, or that was sent a descriptor, may have an original open.
    fn take_away(
        &mut self,
        missing: &BTreeSet<StorePath>,
        place: &dyn Fn(&StorePath) -> PathBuf,
    ) -> Result<(), AttemptError> {
        let mut seen = InodesSeen::new();
        for path in missing {
            let made = place(path);
            self.check_owner(path, &made)?;
            let store = &self.job.engine.store;
            if let Err(error) = store.canonicalise(&made, self.owner, &mut seen, self.deadline) {
                return rejected(error.to_string());
            }
        }
        // Nobody can open them for writing now.
        for path in missing {
            let made = place(path);
            if self.job.is_fixed_output() || files::may_be_open_for_writing(&made, self.deadline)? {
                files::replace_by_copy(&made, self.deadline)?;
            }
        }
        self.owner = Some(system::ids::effective_uid());
        Ok(())
    }

    fn take_one(
        &self,
        output: &Output,
        made: &Path,
        candidates: &BTreeSet<StorePath>,
        seen: &mut InodesSeen,
    ) -> Result<Option<Produced>, AttemptError> {
        let (job, path) = (self.job, &output.path);
        let store = &job.engine.store;
        let status = self.check_owner(path, made)?;
        if let Some(expected) = output.fixed_hash().map_err(RequestError::new)? {
            self.check_hash(output, &expected, made, &status)?;
        }
        if let Err(error) = store.canonicalise(made, self.owner, seen, self.deadline) {
            return rejected(error.to_string());
        }
        let mut place = made;
        if made != path.as_path() {
            match job.mode {
                BuildMode::Normal => files::move_tree(made, path.as_path())?,
                BuildMode::Repair => files::replace(path.as_path(), made)?,
                BuildMode::Check => {}
            }
            if job.mode != BuildMode::Check {
                place = path.as_path();
                // Moving a directory has changed its times.
                store.canonicalise(place, None, &mut InodesSeen::new(), self.deadline)?;
            }
        }
        let scan = store.scan_and_hash(place, candidates, self.deadline)?;
        if job.mode == BuildMode::Check {
            self.compare_with_registered(path, place, &scan.hash)?;
            return Ok(None);
        }
        self.check_references(path, &scan.references)?;
        let info = NewPath {
            path: path.clone(),
            hash: scan.hash,
            nar_size: scan.nar_size,
            references: scan.references,
            deriver: Some(job.path.clone()),
            registration_time: None,
        };
        Ok(Some(Produced {
            info,
            files: scan.files,
        }))
    }

    /// The output has to exist, and only the builder may have write permission.
    fn check_owner(
        &self,
        path: &StorePath,
        made: &Path,
    ) -> Result<std::fs::Metadata, AttemptError> {
        let Some(status) = files::status(made)? else {
            return rejected(format!(
                "builder for `{}' failed to produce output path `{path}'",
                self.job.path
            ));
        };
        if let Some(owner) = self.owner {
            let loose = !status.is_symlink() && status.mode() & 0o022 != 0;
            if loose || status.uid() != owner {
                return rejected(format!(
                    "suspicious ownership or permission on `{}'; rejecting this build output",
                    made.display()
                ));
            }
        }
        Ok(status)
    }

    fn check_hash(
        &self,
        output: &Output,
        expected: &FixedHash,
        made: &Path,
        status: &std::fs::Metadata,
    ) -> Result<(), AttemptError> {
        let path = &output.path;
        if !expected.recursive && (!status.is_file() || status.mode() & 0o100 != 0) {
            return rejected(format!(
                "output path `{path}' should be a non-executable regular file"
            ));
        }
        let actual = hash_of(self.job, made, expected, self.deadline)?;
        if actual != expected.hash {
            let algorithm = &output.algorithm;
            let (wanted, got) = (expected.hash.hex_or_base32(), actual.hex_or_base32());
            self.deadline.attempt().trace(Trace::HashMismatch {
                path: path.as_str(),
                algorithm,
                expected: &wanted,
                actual: &got,
            });
            return rejected(format!("hash mismatch for store item '{path}'"));
        }
        Ok(())
    }

    fn compare_with_registered(
        &self,
        path: &StorePath,
        made: &Path,
        hash: &Hash,
    ) -> Result<(), AttemptError> {
        let Some(registered) = self.job.engine.store.query_path_info(path)? else {
            return Ok(());
        };
        if registered.hash == *hash {
            return Ok(());
        }
        let mut text = format!(
            "derivation `{}' may not be deterministic: output `{path}' differs",
            self.job.path
        );
        if self.job.session.keep_failed {
            let kept = suffixed(path);
            files::remove(&kept)?;
            files::move_tree(made, &kept)?;
            text += &format!(" from `{}'", kept.display());
        }
        Err(RequestError::new(text).into())
    }

    /// Checks `allowedReferences` and the three similar variables.
    fn check_references(
        &self,
        path: &StorePath,
        references: &BTreeSet<StorePath>,
    ) -> Result<(), AttemptError> {
        for (name, allowed, whole_closure) in [
            ("allowedReferences", true, false),
            ("allowedRequisites", true, true),
            ("disallowedReferences", false, false),
            ("disallowedRequisites", false, true),
        ] {
            if self.job.derivation.variable(name).is_none() {
                continue;
            }
            let named = self.specified(name)?;
            let used = match whole_closure {
                false => references.clone(),
                true => self.requisites(path, references)?,
            };
            if let Some(bad) = used.iter().find(|used| named.contains(*used) != allowed) {
                return rejected(format!(
                    "output (`{path}') is not allowed to refer to path `{bad}'"
                ));
            }
        }
        Ok(())
    }

    /// The closure of an output's references. Other outputs of the same build aren't valid yet.
    fn requisites(
        &self,
        path: &StorePath,
        references: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<StorePath>, AttemptError> {
        let store = &self.job.engine.store;
        let others: BTreeSet<StorePath> = references
            .iter()
            .filter(|other| *other != path)
            .cloned()
            .collect();
        let valid = store.query_valid_paths(&others)?;
        let mut all: BTreeSet<StorePath> = store
            .compute_closure(&valid, Closure::default())?
            .into_iter()
            .collect();
        all.extend(others);
        Ok(all)
    }

    /// The paths and output names in a variable, converted to paths.
    fn specified(&self, name: &str) -> Result<BTreeSet<StorePath>, AttemptError> {
        let dir = self.job.engine.store.dir();
        let mut paths = BTreeSet::new();
        for word in self.job.words(name) {
            let word = word.to_str_lossy();
            let output = self.job.derivation.outputs.get(word.as_ref());
            match (dir.parse(word.as_bytes()), output) {
                (Ok(path), _) => paths.insert(path),
                (Err(_), Some(output)) => paths.insert(output.path.clone()),
                (Err(_), None) => {
                    return rejected(format!(
                        "derivation contains an invalid reference specifier `{word}'"
                    ));
                }
            };
        }
        Ok(paths)
    }

    fn register(&self, produced: &[Produced]) -> Result<(), AttemptError> {
        let store = &self.job.engine.store;
        let infos: Vec<NewPath> = produced.iter().map(|one| one.info.clone()).collect();
        match store.register_valid_paths(&infos) {
            // This is a failure of the build; all other errors are general.
            Err(error @ store::Error::Cycle(_)) => return rejected(error.to_string()),
            registered => registered?,
        };
        for one in produced {
            let attempt = self.deadline.attempt();
            store.deduplicate(&one.info.path, Some(&one.files), attempt)?;
            self.job.checked.mark_good(&one.info.path);
        }
        Ok(())
    }
}

fn compare(job: &Job, previous: &[Produced], produced: &[Produced]) -> Result<(), AttemptError> {
    for (before, now) in previous.iter().zip(produced) {
        let (before, now) = (&before.info, &now.info);
        if before.hash == now.hash && before.references == now.references {
            continue;
        }
        let kept = suffixed(&now.path);
        let from = if files::exists(&kept)? {
            format!("‘{}’ from ", kept.display())
        } else {
            String::new()
        };
        let from = format!("{from}previous round");
        return rejected(format!(
            "output ‘{}’ of ‘{}’ differs from {from}",
            now.path, job.path
        ));
    }
    Ok(())
}

/// The hash of a fixed output, computed as its derivation specifies.
fn hash_of(
    job: &Job,
    made: &Path,
    expected: &FixedHash,
    deadline: &Deadline<'_>,
) -> Result<Hash, AttemptError> {
    let store = &job.engine.store;
    let algorithm = expected.hash.algorithm();
    let reading = |e| failed(format!("reading `{}'", made.display()), e);
    let mut hasher = Hasher::new(algorithm);
    if expected.recursive {
        store.dump_tree(made, &mut hasher, deadline)?;
    } else {
        let mut file = std::fs::File::open(made).map_err(reading)?;
        let mut piece = vec![0; PIECE];
        loop {
            deadline.check()?;
            match file.read(&mut piece).map_err(reading)? {
                0 => break,
                count => hasher.update(&piece[..count]),
            }
        }
    }
    Ok(hasher.finish().0)
}
