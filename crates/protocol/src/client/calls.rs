//! The operations, as methods of a connection.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use bstr::BString;
use formats::{Algorithm, Hash, StorePath, export, nar};

use super::{Connection, Error, LogCallback, Streams};
use crate::frames::READ_AHEAD;
use crate::operations::*;

/// Declares methods that only wrap a request.
macro_rules! calls {
    ($($(#[doc = $doc:literal])+ $name:ident($($field:ident: $type:ty = $value:expr),*) -> $reply:ty = $call:ident;)+) => {
        impl Connection {
            $(
                $(#[doc = $doc])+
                pub fn $name(&mut self, $($field: $type),*) -> Result<$reply, Error> {
                    self.call(&$call { $($field: $value),* })
                }
            )+
        }
    };
}

calls! {
    /// The hash of a valid item's nar.
    query_path_hash(path: &StorePath = path.clone()) -> Hash = QueryPathHash;
    /// What is registered about a valid item.
    query_path_info(path: &StorePath = path.clone()) -> PathInfo = QueryPathInfo;
    /// The references of an item.
    query_references(path: &StorePath = path.clone()) -> BTreeSet<StorePath> = QueryReferences;
    /// The items that refer to an item.
    query_referrers(path: &StorePath = path.clone()) -> BTreeSet<StorePath> = QueryReferrers;
    /// The derivation an item was built from.
    query_deriver(path: &StorePath = path.clone()) -> Option<StorePath> = QueryDeriver;
    /// The valid derivations that have an item as output.
    query_valid_derivers(path: &StorePath = path.clone()) -> BTreeSet<StorePath> = QueryValidDerivers;
    /// The paths of a derivation's outputs.
    query_derivation_outputs(path: &StorePath = path.clone()) -> BTreeSet<StorePath> = QueryDerivationOutputs;
    /// The names of a derivation's outputs.
    query_derivation_output_names(path: &StorePath = path.clone()) -> Vec<String> = QueryDerivationOutputNames;
    /// The item with this hash part.
    query_path_from_hash_part(hash_part: &str = hash_part.into()) -> Option<StorePath> = QueryPathFromHashPart;
    /// Which of `paths` are valid.
    query_valid_paths(paths: BTreeSet<StorePath> = paths) -> BTreeSet<StorePath> = QueryValidPaths;
    /// All valid items.
    query_all_valid_paths() -> BTreeSet<StorePath> = QueryAllValidPaths;
    /// Whether an item has a substitute.
    has_substitutes(path: &StorePath = path.clone()) -> bool = HasSubstitutes;
    /// Which of `paths` have substitutes.
    query_substitutable_paths(paths: BTreeSet<StorePath> = paths) -> BTreeSet<StorePath> = QuerySubstitutablePaths;
    /// The download and nar sizes, references and derivers of substitutes for `paths`.
    query_substitutable_path_infos(paths: BTreeSet<StorePath> = paths) -> Vec<(StorePath, Substitutable)> = QuerySubstitutablePathInfos;
    /// What is being built, what waits, and why, as JSON; only our daemon knows.
    query_farm_status() -> FarmStatus = QueryFarmStatus;
    /// The URLs that the daemon gets substitutes from; daemons support this since 2023.
    substitute_urls() -> Vec<BString> = SubstituteURLs;
    /// The outputs whose build is known to fail.
    query_failed_paths() -> BTreeSet<StorePath> = QueryFailedPaths;
    /// Whether errors remain after a check of the store.
    verify_store(check_contents: bool = check_contents, repair: bool = repair) -> bool = VerifyStore;
    /// The builders that are built into the daemon.
    builtin_builders() -> Vec<String> = BuiltinBuilders;
    /// The links that are GC roots, and the items that they keep.
    find_roots() -> Vec<(BString, StorePath)> = FindRoots;
}

impl Connection {
    /// Whether an item is valid.
    pub fn is_valid_path(&mut self, path: &StorePath) -> Result<bool, Error> {
        self.call(&IsValidPath {
            path: path.as_str().into(),
        })
    }

    /// Sets options for the following operations.
    pub fn set_options(&mut self, options: &SetOptions) -> Result<(), Error> {
        self.call(options).map(drop)
    }

    /// Adds a text, such as a derivation.
    pub fn add_text_to_store(
        &mut self,
        name: &str,
        text: impl Into<BString>,
        references: BTreeSet<StorePath>,
    ) -> Result<StorePath, Error> {
        self.call(&AddTextToStore {
            name: name.to_owned(),
            text: text.into(),
            references,
        })
    }

    /// Adds files: `dump` writes them to a nar writer. Unless `recursive`, there has to be a single
    /// file, and `algorithm` applies to its contents instead of its nar.
    pub fn add_to_store(
        &mut self,
        name: &str,
        recursive: bool,
        algorithm: Algorithm,
        dump: impl FnOnce(&mut nar::Writer<&mut dyn Write>) -> io::Result<()>,
    ) -> Result<StorePath, Error> {
        let request = AddToStore {
            name: name.to_owned(),
            recursive,
            algorithm: algorithm.name().to_owned(),
        };
        self.call_with_body(&request, |writer| dump(&mut nar::Writer::new(writer)))
    }

    /// Builds derivations and substitutes other items; `on_log` receives the daemon's log messages.
    pub fn build_paths(
        &mut self,
        targets: Vec<Target>,
        mode: BuildMode,
        on_log: &mut LogCallback<'_>,
    ) -> Result<(), Error> {
        let streams = Streams::new(on_log);
        self.call_with(&BuildPaths { targets, mode }, streams)
            .map(drop)
    }

    /// Substitutes an item if it isn't valid; `on_log` receives the daemon's log messages.
    pub fn ensure_path(
        &mut self,
        path: &StorePath,
        on_log: &mut LogCallback<'_>,
    ) -> Result<(), Error> {
        let streams = Streams::new(on_log);
        self.call_with(&EnsurePath { path: path.clone() }, streams)
            .map(drop)
    }

    /// Protects an item from garbage collection while this connection lasts.
    pub fn add_temp_root(&mut self, path: &StorePath) -> Result<(), Error> {
        self.call(&AddTempRoot { path: path.clone() }).map(drop)
    }

    /// Protects items while this connection lasts; takes few round trips even for hundreds of
    /// items.
    pub fn add_temp_roots(&mut self, paths: &[StorePath]) -> Result<(), Error> {
        let Some((last, before)) = paths.split_last() else {
            return Ok(());
        };
        self.put_temp_roots_before(before)?;
        self.add_temp_root(last)
    }

    /// Like [`Connection::add_temp_roots`], with the next request: see [`Connection::put_before`].
    pub fn put_temp_roots_before(&mut self, paths: &[StorePath]) -> Result<(), Error> {
        for path in paths {
            self.put_before(&AddTempRoot { path: path.clone() })?;
        }
        Ok(())
    }

    /// Protects the target of the symbolic link with this absolute file name.
    pub fn add_indirect_root(&mut self, link: impl Into<BString>) -> Result<(), Error> {
        self.call(&AddIndirectRoot { link: link.into() }).map(drop)
    }

    /// Waits for a garbage collection to end.
    pub fn sync_with_gc(&mut self) -> Result<(), Error> {
        self.call(&SyncWithGC {}).map(drop)
    }

    /// Forgets build failures.
    pub fn clear_failed_paths(&mut self, paths: BTreeSet<BString>) -> Result<(), Error> {
        self.call(&ClearFailedPaths { paths }).map(drop)
    }

    /// Hard-links identical files; `on_log` receives the summary.
    pub fn optimise_store(&mut self, on_log: &mut LogCallback<'_>) -> Result<(), Error> {
        let streams = Streams::new(on_log);
        self.call_with(&OptimiseStore {}, streams).map(drop)
    }

    /// Collects garbage; `on_log` receives the daemon's log messages.
    pub fn collect_garbage(
        &mut self,
        action: GcAction,
        paths: BTreeSet<StorePath>,
        max_freed: u64,
        on_log: &mut LogCallback<'_>,
    ) -> Result<Collected, Error> {
        let request = CollectGarbage {
            action,
            paths,
            ignore_liveness: false,
            max_freed,
        };
        self.call_with(&request, Streams::new(on_log))
    }

    /// Writes one item to `sink` in the export format, without the words before and after items.
    pub fn export_path(
        &mut self,
        path: &StorePath,
        sign: bool,
        sink: &mut dyn Write,
    ) -> Result<(), Error> {
        let request = ExportPath {
            path: path.clone(),
            sign,
        };
        self.listening(|daemon, log| {
            let streams = Streams {
                sink: Some(sink),
                ..Streams::new(log)
            };
            daemon.call_with(&request, streams)
        })
        .map(drop)
    }

    /// Writes an archive of items to `sink`. Items have to come after those that they refer to.
    pub fn export_paths<'a>(
        &mut self,
        paths: impl IntoIterator<Item = &'a StorePath>,
        sign: bool,
        sink: &mut dyn Write,
    ) -> Result<(), Error> {
        let local = |source| Error::Local {
            doing: "exporting items".to_owned(),
            source,
        };
        for path in paths {
            sink.write_all(&export::ITEM.to_le_bytes()).map_err(local)?;
            self.export_path(path, sign, sink)?;
        }
        sink.write_all(&export::END.to_le_bytes()).map_err(local)
    }

    /// Sends the archive that `source` yields, and returns the items in it.
    pub fn import_paths(&mut self, source: &mut dyn Read) -> Result<Vec<StorePath>, Error> {
        self.listening(|daemon, log| {
            let streams = Streams {
                source: Some(source),
                ..Streams::new(log)
            };
            daemon.call_with(&ImportPaths {}, streams)
        })
    }

    /// Permits the daemon to ask for more before it has read what it was sent, if it can. It is told with the
    /// next request, which should be an import.
    pub fn permit_read_ahead(&mut self) -> Result<(), Error> {
        let mut options = SetOptions::default();
        options.set(READ_AHEAD, "true");
        self.put_before(&options)
    }
}
