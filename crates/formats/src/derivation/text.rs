//! The text of a derivation: `Derive([OUTPUTS],[INPUTS],[SOURCES],"SYSTEM","BUILDER",[ARGS],[ENV])`.

use std::collections::{BTreeMap, BTreeSet};

use bstr::{BString, ByteSlice};

use super::{Derivation, Error, MAX_SIZE, Output};
use crate::store_path::{StoreDir, StorePath};

impl Derivation {
    /// Parses the text of a derivation. As in Guix, lists need not be sorted; the result is.
    pub fn parse(text: &[u8], store: &StoreDir) -> Result<Derivation, Error> {
        if text.len() as u64 > MAX_SIZE {
            return Err(Error::Syntax {
                reason: "larger than any derivation",
                position: MAX_SIZE as usize,
            });
        }
        let mut parser = Parser {
            text,
            position: 0,
            store,
        };
        parser.expect("Derive(")?;
        let mut outputs = BTreeMap::new();
        parser.list(|parser| {
            parser.expect("(")?;
            let id = parser.utf8()?;
            parser.expect(",")?;
            let path = parser.path()?;
            parser.expect(",")?;
            let algorithm = parser.utf8()?;
            parser.expect(",")?;
            let hash = parser.utf8()?;
            parser.expect(")")?;
            outputs.insert(
                id,
                Output {
                    path,
                    algorithm,
                    hash,
                },
            );
            Ok(())
        })?;
        parser.expect(",")?;
        let mut inputs = BTreeMap::new();
        parser.list(|parser| {
            parser.expect("(")?;
            let path = parser.path()?;
            parser.expect(",")?;
            let mut wanted = BTreeSet::new();
            parser.list(|parser| parser.utf8().map(|id| _ = wanted.insert(id)))?;
            parser.expect(")")?;
            inputs.insert(path, wanted);
            Ok(())
        })?;
        parser.expect(",")?;
        let mut sources = BTreeSet::new();
        parser.list(|parser| parser.path().map(|path| _ = sources.insert(path)))?;
        parser.expect(",")?;
        let system = parser.string()?;
        parser.expect(",")?;
        let builder = parser.string()?;
        parser.expect(",")?;
        let mut arguments = Vec::new();
        parser.list(|parser| parser.string().map(|argument| arguments.push(argument)))?;
        parser.expect(",")?;
        let mut environment = BTreeMap::new();
        parser.list(|parser| {
            parser.expect("(")?;
            let name = parser.string()?;
            parser.expect(",")?;
            let value = parser.string()?;
            parser.expect(")")?;
            environment.insert(name, value);
            Ok(())
        })?;
        parser.expect(")")?;
        if parser.position != text.len() {
            return Err(parser.error("more than a derivation"));
        }
        Ok(Derivation {
            outputs,
            inputs,
            sources,
            system,
            builder,
            arguments,
            environment,
        })
    }

    /// The text of the derivation.
    pub fn to_bytes(&self) -> Vec<u8> {
        let inputs: Vec<_> = self
            .inputs
            .iter()
            .map(|(path, wanted)| (path.as_str(), wanted))
            .collect();
        self.print(false, &inputs)
    }

    /// The text with `inputs` instead of its own. With `blank`, output paths are left out, also in
    /// the environment.
    pub(super) fn print(&self, blank: bool, inputs: &[(&str, &BTreeSet<String>)]) -> Vec<u8> {
        let mut out = Vec::with_capacity(4096);
        out.extend_from_slice(b"Derive(");
        list(&mut out, &self.outputs, |out, (id, output)| {
            out.push(b'(');
            string(out, id);
            out.push(b',');
            string(out, if blank { "" } else { output.path.as_str() });
            out.push(b',');
            string(out, &output.algorithm);
            out.push(b',');
            string(out, &output.hash);
            out.push(b')');
        });
        out.push(b',');
        list(&mut out, inputs, |out, (input, wanted)| {
            out.push(b'(');
            string(out, input);
            out.push(b',');
            list(out, *wanted, string);
            out.push(b')');
        });
        out.push(b',');
        list(&mut out, &self.sources, |out, path| {
            string(out, path.as_str())
        });
        out.push(b',');
        string(&mut out, &self.system);
        out.push(b',');
        string(&mut out, &self.builder);
        out.push(b',');
        list(&mut out, &self.arguments, string);
        out.push(b',');
        let mut environment: BTreeMap<&[u8], &[u8]> = self
            .environment
            .iter()
            .map(|(name, value)| (&name[..], &value[..]))
            .collect();
        if blank {
            environment.extend(self.outputs.keys().map(|id| (id.as_bytes(), &b""[..])));
        }
        list(&mut out, environment, |out, (name, value)| {
            out.push(b'(');
            string(out, name);
            out.push(b',');
            string(out, value);
            out.push(b')');
        });
        out.push(b')');
        out
    }
}

/// Writes `[ITEM,…]`.
fn list<T>(
    out: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    for (position, item) in items.into_iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

/// Writes `"TEXT"`, with the escapes that Guix writes.
fn string(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    let mut rest = text.as_ref();
    out.push(b'"');
    while let Some(position) = rest.find_byteset(b"\"\\\n\r\t") {
        out.extend_from_slice(&rest[..position]);
        out.push(b'\\');
        out.push(match rest[position] {
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            other => other,
        });
        rest = &rest[position + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

struct Parser<'a> {
    text: &'a [u8],
    position: usize,
    store: &'a StoreDir,
}

impl Parser<'_> {
    fn error(&self, reason: &'static str) -> Error {
        Error::Syntax {
            reason,
            position: self.position,
        }
    }

    fn rest(&self) -> &[u8] {
        &self.text[self.position..]
    }

    fn take(&mut self, token: &str) -> bool {
        let there = self.rest().starts_with(token.as_bytes());
        if there {
            self.position += token.len();
        }
        there
    }

    fn expect(&mut self, token: &'static str) -> Result<(), Error> {
        if self.take(token) {
            return Ok(());
        }
        Err(self.error(match token {
            "Derive(" => "expected string `Derive(['",
            "(" => "expected `('",
            ")" => "expected `)'",
            "," => "expected `,'",
            "[" => "expected `['",
            "\"" => "expected string `\"'",
            _ => "unexpected text",
        }))
    }

    /// Parses `[`, items that `item` parses, separated by commas, and `]`.
    fn list(&mut self, mut item: impl FnMut(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        self.expect("[")?;
        if self.take("]") {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.take("]") {
                return Ok(());
            }
            self.expect(",")?;
        }
    }

    fn string(&mut self) -> Result<BString, Error> {
        self.expect("\"")?;
        let mut text = Vec::new();
        loop {
            let Some(length) = self.rest().find_byteset(b"\"\\\0") else {
                return Err(self.error("unterminated string"));
            };
            text.extend_from_slice(&self.rest()[..length]);
            self.position += length;
            match (self.text[self.position], self.text.get(self.position + 1)) {
                (b'"', _) => {
                    self.position += 1;
                    return Ok(text.into());
                }
                (b'\\', Some(&escaped)) if escaped != 0 => text.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    other => other,
                }),
                (b'\\', None) => return Err(self.error("unterminated string")),
                _ => return Err(self.error("NUL in a string")),
            }
            self.position += 2;
        }
    }

    fn utf8(&mut self) -> Result<String, Error> {
        let text = self.string()?;
        String::from_utf8(text.into()).map_err(|_| self.error("name that is no text"))
    }

    fn path(&mut self) -> Result<StorePath, Error> {
        let path = self.string()?;
        self.store.parse(&path).map_err(|_| Error::Path(path))
    }
}
