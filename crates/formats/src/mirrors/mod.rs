//! Where else a download may come from: the files that the variables `mirrors` and
//! `content-addressed-mirrors` of a `builtin:download` name.
//!
//! The first is a list of mirrors by name, `((gnu "https://ftp.gnu.org/gnu/" …) …)`. The second is a
//! Scheme expression whose value is a list of procedures, each of which makes a URL of a file's name
//! and hash. Derivations keep the expression of the Guix that made them, so all forms since 2016
//! have to work (`doc/spec/downloads.md`, section 3). They are evaluated here (`evaluator.rs`,
//! `procedures.rs`), without input or output, within limits of steps, memory and depth. What cannot
//! be evaluated is an error that names the form; the caller goes on without it.

mod error;
mod evaluator;
mod heap;
mod names;
mod procedures;

use crate::datum::{self, Datum};
use crate::hash::Hash;

pub use error::Error;
use evaluator::Evaluator;

/// The largest file of mirrors that is worth reading, in bytes; Guix's are of 20 kB.
pub const MAX_SIZE: u64 = 1024 * 1024;
/// The most content-addressed mirrors that are tried.
const MAX_MIRRORS: usize = 100;

/// Mirrors by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorLists(Vec<(String, Vec<String>)>);

impl MirrorLists {
    /// Reads the list of mirrors. What is not a name followed by URLs is left out.
    ///
    /// ```
    /// use formats::mirrors::MirrorLists;
    ///
    /// let lists = MirrorLists::parse("((gnu \"https://a/gnu/\" \"ftp://b/gnu\") (kde))")?;
    /// assert_eq!(lists.of("gnu"), ["https://a/gnu/", "ftp://b/gnu"]);
    /// assert_eq!(lists.of("kde"), [""; 0]);
    /// # Ok::<(), formats::mirrors::Error>(())
    /// ```
    pub fn parse(text: &str) -> Result<MirrorLists, Error> {
        let data = datum::read_all(text)?;
        let first = data.first().ok_or(Error::Value("no list of mirrors"))?;
        let lists = unquoted(first)
            .list()
            .ok_or(Error::Value("not a list of mirrors"))?;
        let entry = |entry: &Datum| {
            let (name, urls) = entry.list()?.split_first()?;
            let urls = urls
                .iter()
                .filter_map(|url| url.string().map(str::to_owned));
            Some((name.symbol()?.to_owned(), urls.collect()))
        };
        Ok(MirrorLists(lists.iter().filter_map(entry).collect()))
    }

    /// The URLs of the mirrors with this name.
    pub fn of(&self, name: &str) -> &[String] {
        let found = self.0.iter().find(|(other, _)| other == name);
        found.map_or(&[], |(_, urls)| urls)
    }
}

/// `'X` is `(quote X)`; here it means X.
fn unquoted(datum: &Datum) -> &Datum {
    match datum.list() {
        Some([quote, inner]) if quote.symbol() == Some("quote") => inner,
        _ => datum,
    }
}

/// What the expression for content-addressed mirrors makes of one file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluated {
    /// The URLs, in order.
    pub urls: Vec<String>,
    /// Mirrors whose procedure failed.
    pub problems: Vec<Error>,
}

/// Evaluates the expression for a file with this name, without the hash of its store path, and
/// these contents.
///
/// ```
/// use formats::{Algorithm, Hash, mirrors};
///
/// let expression = r#"
///   (list (lambda (file algo hash)
///           (string-append "https://example.org/" file "/" (symbol->string algo) "/"
///                          (bytevector->nix-base32-string hash))))"#;
/// let hash = Hash::of(Algorithm::Sha256, "hello\n");
/// let found = mirrors::content_addressed(expression, "hello.tar", &hash)?;
/// assert_eq!(found.urls, [format!("https://example.org/hello.tar/sha256/{}", hash.base32())]);
/// # Ok::<(), mirrors::Error>(())
/// ```
pub fn content_addressed(expression: &str, file: &str, hash: &Hash) -> Result<Evaluated, Error> {
    let data = datum::read_all(expression)?;
    let expression = data.first().ok_or(Error::Value("no expression"))?;
    let mut evaluator = Evaluator::new();
    let mirrors = evaluator.evaluate(expression)?;
    let Some(mirrors) = evaluator.elements(mirrors)? else {
        return Err(Error::Value("the value is not a list of mirrors"));
    };
    let mut evaluated = Evaluated::default();
    for mirror in mirrors.into_iter().take(MAX_MIRRORS) {
        match evaluator.url(mirror, file, hash) {
            Ok(url) => evaluated.urls.extend(url),
            Err(problem) => evaluated.problems.push(problem),
        }
    }
    Ok(evaluated)
}

#[cfg(test)]
mod tests;
