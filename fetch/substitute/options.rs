//! The client's settings: lines `NAME=VALUE` in the variable `_NIX_OPTIONS`.

use std::collections::BTreeMap;

/// Settings by name.
#[derive(Debug, Default)]
pub(super) struct Options(BTreeMap<String, String>);

impl Options {
    /// Those in the environment.
    pub(super) fn from_environment() -> Options {
        let text = std::env::var_os("_NIX_OPTIONS").unwrap_or_default();
        Options::parse(&text.to_string_lossy())
    }

    fn parse(text: &str) -> Options {
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Options(
            pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        )
    }

    /// A setting, if there is one of this name.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_begins_after_the_first_equals_sign() {
        let options = Options::parse("a=b=c\nnonsense\nsubstitute-urls=http://x http://y\nd=");
        assert_eq!(options.get("a").as_deref(), Some("b=c"));
        assert_eq!(
            options.get("substitute-urls").as_deref(),
            Some("http://x http://y")
        );
        assert_eq!(options.get("d").as_deref(), Some(""));
        assert_eq!(options.get("nonsense"), None);
    }
}
