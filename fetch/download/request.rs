//! What a derivation asks to be downloaded (`doc/spec/downloads.md`, sections 1, 2 and 4).

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use formats::datum::{self, Datum, Value};
use formats::derivation::{self, FixedHash};
use formats::{Derivation, StoreDir, StorePath, mirrors};

use super::report;

/// The longest variable that is read as a datum, in bytes.
const MAX_VARIABLE: usize = 1024 * 1024;

/// Why a derivation cannot be downloaded at all.
#[derive(Debug)]
pub struct Refusal(pub String);

impl Refusal {
    /// The arguments are something else.
    pub fn usage() -> Refusal {
        Refusal("fixed-output derivation and output file name expected".to_owned())
    }
}

/// What is to be downloaded.
pub struct Request {
    /// The output's path in the store, which is what messages name.
    pub item: StorePath,
    /// The hash that the output must have.
    pub hash: FixedHash,
    /// Whether progress is reported by trace lines.
    pub traces: bool,
    /// Which ways of downloading are wanted; `None`: all.
    methods: Option<Vec<String>>,
    /// What the rest of the derivation says.
    pub kind: Kind,
}

/// What a derivation is for.
pub enum Kind {
    /// `builtin:download`.
    File(FileRequest),
    /// `builtin:git-download`.
    Git(GitRequest),
}

/// The variables of a `builtin:git-download`.
pub struct GitRequest {
    /// The URL of the repository.
    pub url: String,
    /// A commit or a tag.
    pub commit: String,
    /// Whether submodules are wanted, too.
    pub recursive: bool,
}

/// The variables of a `builtin:download`.
pub struct FileRequest {
    /// The upstream URLs, with `mirror:` among them.
    pub urls: Vec<String>,
    /// The variable `url` as it is written.
    pub written: String,
    /// Whether the output is made executable.
    pub executable: bool,
    /// The text of the lists of mirrors.
    pub mirrors: Option<String>,
    /// The text of the expression for content-addressed mirrors.
    pub content_addressed: Option<String>,
    /// Whether there are mirrors of Disarchive.
    pub disarchive: bool,
}

impl Request {
    /// Reads the derivation with this file name.
    pub fn read(file: &OsStr, output: &Path) -> Result<Request, Refusal> {
        let store = store_directory()?;
        let path = store.parse(file.as_bytes()).ok();
        let path = path.filter(StorePath::is_derivation);
        let path = path.ok_or_else(Refusal::usage)?;
        if !output.starts_with(store.as_path()) || output == store.as_path() {
            return Err(Refusal::usage());
        }
        let failed = |error: String| Refusal(format!("{path}: {error}"));
        let text = read_file(path.as_path(), derivation::MAX_SIZE)
            .map_err(|error| failed(error.to_string()))?;
        let drv = Derivation::parse(&text, &store).map_err(|error| failed(error.to_string()))?;
        let out = drv.outputs.get("out");
        let hash = out.map(derivation::Output::fixed_hash);
        let (Some(out), Some(Ok(Some(hash)))) = (out, hash) else {
            return Err(Refusal(format!("{path} is not a fixed-output derivation")));
        };
        let variables = Variables {
            drv: &drv,
            store: &store,
        };
        let kind = match drv.builder.as_slice() {
            b"builtin:download" => Kind::File(variables.file(&path)?),
            b"builtin:git-download" => Kind::Git(variables.git(&path)?),
            _ => return Err(Refusal(format!("{}: unknown builtin builder", drv.builder))),
        };
        let options = std::env::var_os("_NIX_OPTIONS").unwrap_or_default();
        let options = String::from_utf8_lossy(options.as_bytes()).into_owned();
        Ok(Request {
            item: out.path.clone(),
            hash,
            traces: options.contains("print-extended-build-trace=1"),
            methods: variables.methods(),
            kind,
        })
    }

    /// Whether this way of downloading is wanted.
    pub fn wants(&self, method: &str) -> bool {
        let methods = self.methods.as_ref();
        methods.is_none_or(|methods| methods.iter().any(|other| other == method))
    }
}

/// The store directory: the daemon's, whose child this is.
fn store_directory() -> Result<StoreDir, Refusal> {
    let named = ["NIX_STORE", "NIX_STORE_DIR"];
    let named = named.into_iter().find_map(std::env::var_os);
    let named = named.and_then(|name| name.into_string().ok());
    let name = named.unwrap_or_else(|| store::compiled_directories!().store.to_owned());
    StoreDir::new(name).map_err(|error| Refusal(error.to_string()))
}

/// Reads a regular file of the store; a final link is not followed.
fn read_file(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut options = OpenOptions::new();
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options.read(true).custom_flags(flags).open(path)?;
    let is_file = file.metadata()?.is_file();
    let mut text = Vec::new();
    File::take(file, limit + 1).read_to_end(&mut text)?;
    if !is_file || text.len() as u64 > limit {
        return Err(io::Error::other("not a file of a reasonable size"));
    }
    Ok(text)
}

/// The variables of a derivation.
struct Variables<'a> {
    drv: &'a Derivation,
    store: &'a StoreDir,
}

impl Variables<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let value = self.drv.variable(name)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// The value of a variable that is a written datum.
    fn datum(&self, name: &str) -> Option<Result<Datum, Refusal>> {
        let text = self.text(name)?;
        let wrong = |reason: String| Refusal(format!("variable `{name}': {reason}"));
        if text.len() > MAX_VARIABLE {
            return Some(Err(wrong("too long".to_owned())));
        }
        let data = datum::read_all(&text).map_err(|error| wrong(error.to_string()));
        Some(data.and_then(|data| {
            let first = data.into_iter().next();
            first.ok_or_else(|| wrong("no datum".to_owned()))
        }))
    }

    fn file(&self, derivation: &StorePath) -> Result<FileRequest, Refusal> {
        let written = self
            .text("url")
            .ok_or_else(|| Refusal(format!("{derivation}: missing URL")))?;
        let mirrors = self.mirrors("mirrors")?;
        let content_addressed = self.mirrors("content-addressed-mirrors")?;
        let disarchive = self.mirrors("disarchive-mirrors")?.is_some();
        Ok(FileRequest {
            urls: self.urls()?,
            written,
            executable: self.text("executable").as_deref() == Some("1"),
            mirrors,
            content_addressed,
            disarchive,
        })
    }

    fn git(&self, derivation: &StorePath) -> Result<GitRequest, Refusal> {
        let missing = |what: &str| Refusal(format!("{derivation}: missing Git {what}"));
        self.text("url").ok_or_else(|| missing("URL"))?;
        let commit = self.text("commit").ok_or_else(|| missing("commit"))?;
        let recursive = match self.datum("recursive?") {
            None => false,
            Some(datum) => datum?.value != Value::Bool(false),
        };
        let mut urls = self.urls()?;
        match (urls.pop(), urls.is_empty()) {
            (Some(url), true) => Ok(GitRequest {
                url,
                commit,
                recursive,
            }),
            _ => Err(missing("URL")),
        }
    }

    /// The variable `url`: a string or a list of strings, none of which may be a local file.
    fn urls(&self) -> Result<Vec<String>, Refusal> {
        let datum = self.datum("url").unwrap_or_else(|| Err(Refusal::usage()))?;
        let undecodable =
            |url: &dyn std::fmt::Display| Refusal(format!("URL {url} can't be decoded"));
        let items = match &datum.value {
            Value::List(items) => items.as_slice(),
            _ => std::slice::from_ref(&datum),
        };
        let mut urls = Vec::new();
        for item in items {
            let url = item.string().ok_or_else(|| undecodable(item))?;
            match super::place::scheme(url) {
                None => return Err(undecodable(item)),
                Some(scheme) if scheme == "file" => {
                    return Err(Refusal(format!("URL {item} is for a local file")));
                }
                Some(_) => urls.push(url.to_owned()),
            }
        }
        Ok(urls)
    }

    /// The text of the file that a variable names. It must be in the store, or links must lead
    /// there; one that cannot be read is left out.
    fn mirrors(&self, name: &str) -> Result<Option<String>, Refusal> {
        let Some(file) = self.text(name) else {
            return Ok(None);
        };
        let path = PathBuf::from(&file);
        let located = system::tree::locate(&path);
        let readable = match &located {
            Ok(real) if !real.starts_with(self.store.as_path()) || real == self.store.as_path() => {
                return Err(Refusal(format!("{real:?} is not in the store")));
            }
            Ok(real) => read_file(real, mirrors::MAX_SIZE),
            Err(_) if !path.starts_with(self.store.as_path()) => {
                return Err(Refusal(format!("{file:?} is not in the store")));
            }
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        match readable {
            Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
            Err(error) => {
                report::warning(&format!("cannot read `{file}': {error}"));
                Ok(None)
            }
        }
    }

    /// The variable `download-methods`. A wrong one counts as missing.
    fn methods(&self) -> Option<Vec<String>> {
        let datum = match self.datum("download-methods")? {
            Ok(datum) => datum,
            Err(Refusal(reason)) => {
                report::warning(&reason);
                return None;
            }
        };
        let names = datum
            .list()?
            .iter()
            .map(|item| item.symbol().map(str::to_owned));
        names.collect()
    }
}
