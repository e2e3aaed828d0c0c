//! The daemon's and its client's settings, which are in the environment.

use std::collections::HashMap;

/// The variable: a line `NAME=VALUE` for each setting.
const VARIABLE: &str = "_NIX_OPTIONS";

/// Settings by name.
#[derive(Debug, Default)]
pub struct Options(HashMap<String, String>);

impl Options {
    /// The settings in this process's environment.
    pub fn from_environment() -> Options {
        let text = std::env::var_os(VARIABLE).unwrap_or_default();
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

    /// The value of a setting.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    /// Whether files of an item are replaced by links to equal ones.
    pub fn deduplicate(&self) -> bool {
        self.get("deduplicate").is_some_and(|value| value == "yes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings() {
        let options = Options::parse("a=b=c\nrubbish\nempty=\ndeduplicate=yes\n");
        assert_eq!(options.get("a").as_deref(), Some("b=c"));
        assert_eq!(options.get("empty").as_deref(), Some(""));
        assert_eq!(options.get("rubbish"), None);
        assert!(options.deduplicate());
        for text in ["", "deduplicate=no", "deduplicate="] {
            assert!(!Options::parse(text).deduplicate());
        }
    }
}
