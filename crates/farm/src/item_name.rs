//! What a derivation makes, by name: without the hash, and with the version apart.
//!
//! The next version of a package takes about as long as the last one, so this is the name under which
//! durations are remembered. What is made besides packages has names of its own:
//!
//! | derivation | name | version |
//! |---|---|---|
//! | `hello-2.12.1.drv` | `hello` | `2.12.1` |
//! | `hello-2.12.1.tar.gz.drv` | `hello.tar.gz` | `2.12.1` |
//! | `guile-git-0.5.2-checkout.drv` | `guile-git-checkout` | `0.5.2` |
//! | `module-import.drv` | `module-import` | |
//!
//! As in Guix, a version begins behind the first hyphen that a digit follows.

use formats::derivation::Derivation;
use formats::store_path::{StorePath, name_without_hash};
use serde::{Deserialize, Serialize};

/// What follows the name of a grafted package, which isn't a name that the store allows.
const GRAFT: &str = " (graft)";
/// The variable of a derivation that says what it is, and what it says of a graft.
const PROPERTIES: &str = "guix properties";
const IS_GRAFT: &[u8] = b"(type . graft)";

/// Kinds of things that take similar times to build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Something with a version and no special ending.
    Package,
    /// A source archive.
    Archive,
    /// A patch.
    Patch,
    /// A checkout of a version control system.
    Checkout,
    /// Documentation.
    Documentation,
    /// A package whose references are replaced.
    Graft,
    /// Anything else: profiles, modules, files of a system.
    Other,
}

impl Class {
    /// The number of classes.
    pub(crate) const COUNT: usize = 7;
}

/// Endings that follow the version.
const ENDINGS: &[(&str, Class)] = &[
    (".tar", Class::Archive),
    (".tar.bz2", Class::Archive),
    (".tar.gz", Class::Archive),
    (".tar.lz", Class::Archive),
    (".tar.xz", Class::Archive),
    (".tar.zst", Class::Archive),
    (".tbz2", Class::Archive),
    (".tgz", Class::Archive),
    (".txz", Class::Archive),
    (".zip", Class::Archive),
    (".crate", Class::Archive),
    (".gem", Class::Archive),
    (".patch", Class::Patch),
    (".diff", Class::Patch),
    ("-checkout", Class::Checkout),
    ("-doc", Class::Documentation),
    ("-manual", Class::Documentation),
    ("-html", Class::Documentation),
    (GRAFT, Class::Graft),
];

/// The name of what a derivation makes.
///
/// ```
/// use farm::ItemName;
///
/// let path = "/gnu/store/7jhl46sxb6yi6ppz8kka0hlsm1ih0qlg-hello-2.12.1.tar.gz.drv";
/// let item = ItemName::of(path);
/// assert_eq!((item.name.as_str(), item.version.as_str()), ("hello.tar.gz", "2.12.1"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemName {
    /// The name without the version.
    pub name: String,
    /// The version; empty if there is none.
    pub version: String,
}

impl ItemName {
    /// The name in a store path of a derivation, in its base name, or in `NAME-VERSION`.
    pub fn of(text: &str) -> ItemName {
        let item = name_without_hash(text);
        let item = item.strip_suffix(".drv").unwrap_or(item);
        let Some(hyphen) = version_hyphen(item) else {
            return ItemName {
                name: item.to_owned(),
                version: String::new(),
            };
        };
        let (name, rest) = (&item[..hyphen], &item[hyphen + 1..]);
        let endings = ENDINGS.iter().map(|(ending, _)| *ending);
        let ending = endings
            .filter(|ending| rest.len() > ending.len() && rest.ends_with(ending))
            .max_by_key(|ending| ending.len())
            .unwrap_or("");
        ItemName {
            name: [name, ending].concat(),
            version: rest[..rest.len() - ending.len()].to_owned(),
        }
    }

    /// The name of what a derivation makes. Grafts have the names of the packages whose references they
    /// replace, so the derivation has to be looked at.
    pub fn of_derivation(path: &StorePath, derivation: &Derivation) -> ItemName {
        let item = ItemName::of(path.base_name());
        let properties = derivation.variable(PROPERTIES);
        let says = |text: &[u8]| text.windows(IS_GRAFT.len()).any(|part| part == IS_GRAFT);
        match properties.is_some_and(|text| says(text)) {
            true => item.grafted(),
            false => item,
        }
    }

    /// The name of this package with replaced references: that takes moments, and would otherwise count
    /// as a build of the package.
    fn grafted(mut self) -> ItemName {
        self.name += GRAFT;
        self
    }

    /// The class of what is made.
    pub fn class(&self) -> Class {
        let mut known = ENDINGS.iter();
        match known.find(|(ending, _)| self.name.ends_with(ending)) {
            Some((_, class)) => *class,
            None if self.version.is_empty() => Class::Other,
            None => Class::Package,
        }
    }
}

/// The hyphen before the version. No name begins with one.
fn version_hyphen(item: &str) -> Option<usize> {
    let bytes = item.as_bytes();
    (1..bytes.len().saturating_sub(1))
        .find(|&at| bytes[at] == b'-' && bytes[at + 1].is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> (String, String) {
        let ItemName { name, version } = ItemName::of(text);
        (name, version)
    }

    #[test]
    fn names_are_split_as_guix_does() {
        let hash = "7jhl46sxb6yi6ppz8kka0hlsm1ih0qlg";
        for (item, name, version) in [
            ("hello-2.12.1", "hello", "2.12.1"),
            ("python-foo-1.2-3.abcdef0", "python-foo", "1.2-3.abcdef0"),
            ("gcc-cross-boot0-14.3.0", "gcc-cross-boot0", "14.3.0"),
            ("font-x11-100dpi", "font-x11", "100dpi"),
            ("profile", "profile", ""),
            (
                "linux-libre-6.1-guix.tar.xz",
                "linux-libre.tar.xz",
                "6.1-guix",
            ),
            ("glibc-2.41-doc", "glibc-doc", "2.41"),
            ("guile-git-0.5-checkout", "guile-git-checkout", "0.5"),
            ("a-1.patch", "a.patch", "1"),
            // Nothing is left of a version that is only an ending.
            ("a-1-", "a", "1-"),
            ("-1", "-1", ""),
            ("", "", ""),
        ] {
            let expected = (name.to_owned(), version.to_owned());
            assert_eq!(split(item), expected, "{item}");
            if !item.is_empty() {
                assert_eq!(split(&format!("/gnu/store/{hash}-{item}.drv")), expected);
                assert_eq!(split(&format!("{hash}-{item}.drv")), expected);
            }
        }
    }

    #[test]
    fn classes_are_told_by_endings() {
        for (item, class) in [
            ("hello-2.12.1", Class::Package),
            ("hello-2.12.1.tar.gz", Class::Archive),
            ("hello.tar.gz", Class::Archive),
            ("foo-1.crate", Class::Archive),
            ("bar-1.diff", Class::Patch),
            ("guile-git-0.5-checkout", Class::Checkout),
            ("glibc-2.41-doc", Class::Documentation),
            ("profile", Class::Other),
        ] {
            assert_eq!(ItemName::of(item).class(), class, "{item}");
        }
        let grafted = ItemName::of("hello-2.12.1").grafted();
        assert_eq!(grafted.class(), Class::Graft);
        assert_eq!(grafted.name, "hello (graft)");
    }

    proptest::proptest! {
        #[test]
        fn any_text_has_a_name(text in "(?s).{0,80}", stem in "[a-z0-9+._-]{1,40}") {
            let _ = ItemName::of(&text).class();
            let item = ItemName::of(&stem);
            // Nothing is lost.
            assert!(item.name.len() + item.version.len() + 5 >= stem.len());
        }
    }
}
