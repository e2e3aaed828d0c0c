//! Writing derivations that run commands in busybox's shell, and adding them to the store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use formats::derivation::{Derivation, FixedHash, ModuloHashes, Recipe};
use formats::store_path::StorePath;

use crate::connection::Connection;
use crate::step::Step;

/// The inputs of a derivation besides busybox.
#[derive(Default)]
pub struct Needs {
    sources: BTreeSet<StorePath>,
    inputs: BTreeMap<StorePath, BTreeSet<String>>,
    environment: BTreeMap<String, String>,
}

impl Needs {
    /// Inputs that are no derivation's.
    pub fn sources(sources: impl IntoIterator<Item = StorePath>) -> Needs {
        Needs {
            sources: sources.into_iter().collect(),
            ..Needs::default()
        }
    }

    /// The output of another derivation.
    pub fn step(mut self, step: &Written) -> Needs {
        self.inputs
            .insert(step.drv.clone(), BTreeSet::from(["out".to_owned()]));
        self
    }

    /// An environment variable.
    pub fn variable(mut self, name: &str, value: &StorePath) -> Needs {
        self.environment.insert(name.to_owned(), value.to_string());
        self
    }
}

/// A derivation that is in the store.
pub struct Written {
    pub drv: StorePath,
    pub output: String,
}

/// Writes derivations, and remembers them.
pub struct Writer<'a> {
    pub store: &'a mut Connection,
    busybox: StorePath,
    hashes: ModuloHashes,
    steps: Vec<Step>,
}

impl<'a> Writer<'a> {
    /// A writer whose derivations run the shell in `busybox`.
    pub fn new(store: &'a mut Connection, busybox: StorePath) -> Writer<'a> {
        Writer {
            store,
            busybox,
            hashes: ModuloHashes::new(),
            steps: Vec::new(),
        }
    }

    /// What was written, in order.
    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }

    /// A derivation that runs `commands` in busybox's shell.
    pub fn write(&mut self, name: &str, commands: &str, mut needs: Needs) -> Result<Written> {
        let bin = format!("{}/bin", self.busybox);
        needs.sources.insert(self.busybox.clone());
        needs.environment.insert("PATH".to_owned(), bin.clone());
        let recipe = Recipe {
            outputs: BTreeMap::from([("out".to_owned(), None)]),
            inputs: needs.inputs,
            sources: needs.sources,
            system: env!("GUIX_SYSTEM").into(),
            builder: format!("{bin}/busybox").into(),
            arguments: ["sh", "-e", "-c", commands].map(Into::into).into(),
            environment: needs
                .environment
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        };
        self.add(name, recipe)
    }

    /// A derivation that has the daemon download a file with these contents.
    pub fn download(&mut self, name: &str, url: &str, contents: FixedHash) -> Result<Written> {
        // A datum of Scheme; these URLs have neither quotation marks nor backslashes.
        let url = format!("\"{url}\"");
        let recipe = Recipe {
            outputs: BTreeMap::from([("out".to_owned(), Some(contents))]),
            system: "builtin".into(),
            builder: "builtin:download".into(),
            environment: BTreeMap::from([("url".into(), url.into())]),
            ..Recipe::default()
        };
        self.add(name, recipe)
    }

    /// The last derivation: it has the `lua` that was built run a script.
    pub fn run_script(&mut self, lua: &Written, gathered: &Path) -> Result<Written> {
        let script = self
            .store
            .add_file("script.lua", &gathered.join("script.lua"))?;
        self.write(
            "output-of-lua",
            &format!("{}/bin/lua {script} | tee $out", lua.output),
            Needs::sources([script]).step(lua),
        )
    }

    fn add(&mut self, name: &str, recipe: Recipe) -> Result<Written> {
        let hashes = &mut self.hashes;
        let unwritten = |path: &StorePath| -> Result<Derivation, anyhow::Error> {
            anyhow::bail!("{path} was not written before it was needed")
        };
        let (derivation, drv) = recipe
            .instantiate(name, self.store.directory(), |input| {
                hashes.get(input, unwritten)
            })
            .with_context(|| format!("cannot make the derivation {name}"))?;
        let hash = derivation.hash_modulo(|input| hashes.get(input, unwritten))?;
        hashes.insert(drv.clone(), hash);

        self.store.add_text(
            &format!("{name}.drv"),
            &derivation.to_bytes(),
            &derivation.references(),
            &drv,
        )?;
        let output = derivation.outputs["out"].path.to_string();
        self.steps.push(Step {
            name: name.to_owned(),
            drv: drv.to_string(),
            output: output.clone(),
        });
        Ok(Written { drv, output })
    }
}
