//! The trivial derivation of `guix-client build --hello`, which needs nothing in the store but its
//! builder, a static program that is part of this one.
//!
//! It shows whether a daemon and its build machines can build. Each derivation is a new one, so
//! that it is really built.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use formats::derivation::{self, Recipe};
use formats::nar::Sink;
use formats::{Algorithm, StorePath};

use crate::daemon::Daemon;

/// `client/hello.c`, compiled; empty where that was not possible.
const BUILDER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hello"));

/// The derivation, in the store.
pub struct Hello {
    /// The `.drv` file.
    pub path: StorePath,
    /// The output that it will have.
    output: StorePath,
    /// The contents that the output must have.
    text: String,
}

impl Hello {
    /// Adds a new derivation, and its builder, to the store.
    pub fn add(daemon: &mut Daemon) -> Result<Hello> {
        if BUILDER.is_empty() {
            bail!("'--hello' is not possible: no builder could be compiled for this architecture");
        }
        let store = daemon.directories.store.clone();
        let builder = daemon
            .connection
            .add_to_store(
                "guix-client-hello-builder",
                true,
                Algorithm::Sha256,
                |nar| nar.regular(true, BUILDER.len() as u64, &mut &*BUILDER),
            )
            .context("adding the builder")?;
        let text = text();
        let recipe = Recipe {
            outputs: BTreeMap::from([("out".to_owned(), None)]),
            sources: BTreeSet::from([builder.clone()]),
            system: env!("GUIX_SYSTEM").into(),
            builder: builder.as_str().into(),
            environment: BTreeMap::from([("text".into(), text.as_str().into())]),
            ..Recipe::default()
        };
        // It has no inputs whose hashes would be asked for.
        let name = "guix-client-hello";
        let (derivation, _) = recipe.instantiate(name, &store, |input| {
            Err(derivation::Error::NotADerivation(input.clone()))
        })?;
        let path = daemon
            .connection
            .add_text_to_store(
                &format!("{name}.drv"),
                derivation.to_bytes(),
                derivation.references(),
            )
            .context("adding the derivation")?;
        let output = derivation.output_paths().next().cloned();
        Ok(Hello {
            path,
            output: output.context("the derivation has no output")?,
            text,
        })
    }

    /// What was built, in words; an error if it is wrong.
    pub fn contents(&self, daemon: &Daemon) -> Result<String> {
        if !daemon.is_local {
            return Ok("Its output is in the daemon's store, on another host.".to_owned());
        }
        let found = fs::read(self.output.as_path())
            .with_context(|| format!("reading the output `{}'", self.output))?;
        if found != self.text.as_bytes() {
            bail!(
                "the output `{}' is not what its builder writes",
                self.output
            );
        }
        Ok(format!("Its output is right: {}", self.text.trim_end()))
    }
}

/// A text that no other run of this program has.
fn text() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanoseconds = now.unwrap_or_default().as_nanos();
    format!(
        "Hello from guix-client {}, build {nanoseconds:x}-{:x}.\n",
        env!("GUIX_VERSION"),
        std::process::id()
    )
}
