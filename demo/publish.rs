//! A substitute server's directory, made of items of this host's store
//! (`doc/spec/substitutes.md`, section 3): a narinfo for each item, signed with this host's key, and
//! its contents as a nar, compressed by zstd. Any web server can serve it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context, Result};
use data_encoding::BASE64;
use formats::Hash;
use formats::graph::Worklist;
use formats::nar;
use formats::store_path::StorePath;
use store::Authority;

use crate::connection::{Connection, dump};

/// Writes `items` and all that they refer to into `directory`. Returns their names.
pub fn publish(
    store: &mut Connection,
    items: Vec<StorePath>,
    directory: &Path,
) -> Result<BTreeSet<StorePath>> {
    let keys = authority::Keys::new(&store.directories().configuration);
    fs::create_dir_all(directory.join("nar"))?;
    let mut items = Worklist::new(items);
    while let Some(item) = items.next() {
        let info = store.info(&item)?;
        let file = format!("nar/{}.zst", item.base_name());
        let compressed = File::create(directory.join(&file))?;
        let encoder = zstd::Encoder::new(compressed, 1)?.auto_finish();
        let mut writer = nar::Writer::new(encoder);
        dump(item.as_path(), &mut writer).with_context(|| format!("cannot read {item}"))?;
        drop(writer);
        let size = fs::metadata(directory.join(&file))?.len();

        let names: Vec<&str> = info.references.iter().map(StorePath::base_name).collect();
        let mut narinfo = format!(
            "StorePath: {item}\nNarHash: sha256:{}\nNarSize: {}\nReferences: {}\n",
            info.hash.base32(),
            info.nar_size,
            names.join(" ")
        );
        if let Some(deriver) = &info.deriver {
            narinfo += &format!("Deriver: {}\n", deriver.base_name());
        }
        let signature = keys
            .sign(&Hash::sha256(&narinfo))
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("cannot sign {item}"))?;
        narinfo += &format!("Signature: 1;demo;{}\n", BASE64.encode(&signature));
        narinfo += &format!("URL: {file}\nCompression: zstd\nFileSize: {size}\n");
        let name = directory.join(format!("{}.narinfo", item.hash_part()));
        fs::write(&name, narinfo).with_context(|| format!("cannot write {}", name.display()))?;
        items.extend(info.references);
    }
    Ok(items.into_found())
}
