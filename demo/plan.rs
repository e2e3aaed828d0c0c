//! The derivations: a toolchain, one per C file, one that links, one that runs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use formats::store_path::StorePath;

use crate::connection::Connection;
use crate::step::Step;
use crate::writer::{Needs, Writer};

/// Adds the gathered sources and the derivations to the store. The last step depends on all others.
pub fn derive(store: &mut Connection, gathered: &Path) -> Result<Vec<Step>> {
    let lua = gathered.join("lua");
    let busybox = store.add_tree("busybox", &gathered.join("busybox"))?;
    let mut writer = Writer::new(store, busybox.clone());

    let tools = writer
        .store
        .add_tree("debian-toolchain", &gathered.join("toolchain"))?;
    let script = writer
        .store
        .add_file("toolchain", &gathered.join("scripts/toolchain"))?;
    let toolchain = writer.write(
        "gcc-toolchain",
        &format!(". {script}"),
        Needs::sources([tools.clone(), script])
            .variable("gathered", &tools)
            .variable("busybox", &busybox),
    )?;

    // Every object needs its own file and all headers: a change in one C file concerns one step.
    let headers = headers(writer.store, &lua)?;
    let mut sources = files(&lua, "c")?;
    sources.push(gathered.join("main.c"));
    let mut objects = Vec::new();
    for file in &sources {
        let name = file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let source = writer.store.add_file(&format!("{name}.c"), file)?;
        objects.push(writer.write(
            &format!("{name}.o"),
            &format!(
                "{0}/bin/cc -O2 -Wall -DLUA_USE_POSIX -I{headers} -c {source} -o $out",
                toolchain.output
            ),
            Needs::sources([source, headers.clone()]).step(&toolchain),
        )?);
    }

    let files: Vec<&str> = objects
        .iter()
        .map(|object| object.output.as_str())
        .collect();
    let mut needs = Needs::default().step(&toolchain);
    for object in &objects {
        needs = needs.step(object);
    }
    let lua = writer.write(
        "lua",
        &format!(
            "mkdir -p $out/bin\n{}/bin/cc {} -lm -o $out/bin/lua",
            toolchain.output,
            files.join(" ")
        ),
        needs,
    )?;

    writer.run_script(&lua, gathered)?;
    Ok(writer.into_steps())
}

/// A store item with the headers in `directory` and nothing else.
fn headers(store: &mut Connection, directory: &Path) -> Result<StorePath> {
    let only = directory.with_extension("headers");
    fs::create_dir_all(&only)?;
    for header in files(directory, "h")? {
        let name = header.file_name().unwrap_or_default();
        fs::copy(&header, only.join(name))
            .with_context(|| format!("cannot copy {}", header.display()))?;
    }
    store.add_tree("lua-headers", &only)
}

/// The files in `directory` whose name ends in `extension`, sorted.
fn files(directory: &Path, extension: &str) -> Result<Vec<std::path::PathBuf>> {
    let mut files: Vec<_> = fs::read_dir(directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    Ok(files)
}
