//! The second half: a host whose store is empty substitutes what it needs, downloads a source, and
//! builds Lua.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use formats::Hash;
use formats::derivation::FixedHash;
use formats::store_path::StorePath;

use crate::connection::Connection;
use crate::report::{format_time, log_of, new_table};
use crate::step::Step;
use crate::writer::{Needs, Writer};

/// The name of the source that is downloaded.
pub const SOURCE: &str = "lua-source.tar";

/// Writes derivations that need the items `published`, which a server has, and a source to download
/// from that server, whose URL ends in a slash. `source` has the source's contents.
pub fn derive(
    store: &mut Connection,
    gathered: &Path,
    published: &BTreeSet<StorePath>,
    url: &str,
    source: &Path,
) -> Result<Vec<Step>> {
    let item = |name: &str| {
        let mut items = published.iter();
        let found = items.find(|item| item.name() == name);
        found.with_context(|| format!("no {name} was published"))
    };
    let (busybox, toolchain) = (item("busybox")?.clone(), item("gcc-toolchain")?.clone());
    let contents = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;

    let mut writer = Writer::new(store, busybox);
    let contents = FixedHash {
        recursive: false,
        hash: Hash::sha256(contents),
    };
    let source = writer.download(SOURCE, &format!("{url}{SOURCE}"), contents)?;
    let lua = writer.write(
        "lua",
        &format!(
            "tar xf {}\nmkdir -p $out/bin\n\
             {toolchain}/bin/cc -O2 -Wall -DLUA_USE_POSIX -I. *.c -lm -o $out/bin/lua",
            source.output
        ),
        Needs::sources([toolchain.clone()]).step(&source),
    )?;
    writer.run_script(&lua, gathered)?;
    Ok(writer.into_steps())
}

/// Prints how everything has come to the host; fails unless each came as it should.
pub fn report(
    store: &mut Connection,
    steps: &[Step],
    published: &BTreeSet<StorePath>,
    machine: &Path,
    seconds: &str,
) -> Result<()> {
    let mut table = new_table(["item", "came by", "size", "time"]);
    let mut sum = 0;
    for item in published {
        let info = store.info(item)?;
        sum += info.nar_size;
        table.add_row([
            item.name().to_owned(),
            "substitute".to_owned(),
            indicatif::HumanBytes(info.nar_size).to_string(),
            String::new(),
        ]);
    }
    let directory = store.directory().clone();
    for step in steps {
        let info = store.info(&directory.parse(&step.output)?)?;
        let time = log_of(machine, &step.drv);
        ensure!(time.is_some(), "{} has not been built here", step.drv);
        table.add_row([
            step.name.clone(),
            if step.name == SOURCE {
                "download"
            } else {
                "build"
            }
            .to_owned(),
            indicatif::HumanBytes(info.nar_size).to_string(),
            time.map(format_time).unwrap_or_default(),
        ]);
    }
    println!("{table}\n");
    println!(
        "{} items ({}) substituted, a source downloaded, and Lua built, {seconds} s, on a fresh host \
         without Guile.",
        published.len(),
        indicatif::HumanBytes(sum),
    );
    Ok(())
}

/// Writes the names of items to a file, a line for each.
pub fn save(items: &BTreeSet<StorePath>, file: &Path) -> Result<()> {
    let lines: String = items.iter().map(|item| format!("{item}\n")).collect();
    fs::write(file, lines).with_context(|| format!("cannot write {}", file.display()))
}

/// Reads what [`save`] wrote.
pub fn load(store: &Connection, file: &Path) -> Result<BTreeSet<StorePath>> {
    let lines =
        fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let parse = |line| Ok(store.directory().parse(line)?);
    lines.lines().map(parse).collect()
}
