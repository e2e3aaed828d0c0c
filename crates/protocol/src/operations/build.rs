//! Building and substituting.

use std::collections::BTreeSet;
use std::fmt;

use formats::StorePath;

use crate::codec::{Decode, Done, Encode, Error, MAX_STRING, Source, put_bytes};
use crate::version::Version;

/// An item to make valid.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// A derivation to build, or another item to substitute.
    pub path: StorePath,
    /// For a derivation, the wanted outputs; if empty, all of them.
    pub outputs: BTreeSet<String>,
}

impl From<StorePath> for Target {
    fn from(path: StorePath) -> Target {
        Target {
            path,
            outputs: BTreeSet::new(),
        }
    }
}

/// `PATH` or `PATH!OUTPUT,…`, as on the wire.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path.as_str())?;
        let mut separator = '!';
        for output in &self.outputs {
            write!(f, "{separator}{output}")?;
            separator = ',';
        }
        Ok(())
    }
}

impl Encode for Target {
    fn encode(&self, out: &mut Vec<u8>, _: Version) {
        put_bytes(out, self.to_string());
    }
}

impl Decode for Target {
    fn decode(source: &mut Source<'_>) -> Result<Self, Error> {
        let text = source.bytes(MAX_STRING)?;
        let (path, outputs) = match text.iter().position(|&byte| byte == b'!') {
            Some(position) => (&text[..position], &text[position + 1..]),
            None => (&text[..], &b""[..]),
        };
        let not_in_store = || formats::store_path::Error::NotInStore(text.to_string());
        let outputs = std::str::from_utf8(outputs).map_err(|_| not_in_store())?;
        if outputs.contains(['/', '\0']) {
            return Err(not_in_store().into());
        }
        let outputs = outputs
            .split(',')
            .filter(|id| !id.is_empty())
            .map(str::to_owned)
            .collect();
        Ok(Target {
            path: source.store().parse(path).map_err(|_| not_in_store())?,
            outputs,
        })
    }
}

/// How to treat valid items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BuildMode {
    /// Build only items that aren't valid.
    #[default]
    Normal,
    /// Also rebuild valid items that are damaged; only for trusted users.
    Repair,
    /// Rebuild valid items, to check whether the result is the same.
    Check,
}

/// Makes items valid.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildPaths {
    /// The items.
    pub targets: Vec<Target>,
    /// The mode.
    pub mode: BuildMode,
}
reply!(BuildPaths -> Done);

impl Encode for BuildPaths {
    fn encode(&self, out: &mut Vec<u8>, version: Version) {
        self.targets.encode(out, version);
        if version.has_build_mode() {
            (self.mode as u32).encode(out, version);
        }
    }
}

impl Decode for BuildPaths {
    fn decode(source: &mut Source<'_>) -> Result<Self, Error> {
        let targets = source.get()?;
        let mode = match source
            .version()
            .has_build_mode()
            .then(|| source.int())
            .transpose()?
        {
            None | Some(0) => BuildMode::Normal,
            Some(1) => BuildMode::Repair,
            Some(2) => BuildMode::Check,
            Some(other) => {
                return Err(Error::Value {
                    what: "build mode",
                    value: other.into(),
                });
            }
        };
        Ok(BuildPaths { targets, mode })
    }
}

call! {
    /// Substitutes an item if it isn't valid.
    EnsurePath {
        /// The item.
        path: StorePath,
    } -> Done
}
