//! The key pair that signs exports, and the keys that are authorised to sign imports.

use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use gcrypt::{Acl, KeyPair, Owner, PublicKey};

use crate::daemon;
use crate::output;

/// The default parameters of keys.
pub const PARAMETERS: &str = "(genkey (ecdsa (curve Ed25519) (flags rfc6979)))";

/// The maximum size of a key that is read, in bytes.
const MAX_KEY: u64 = 1 << 20;

/// Generates the key pair that signs exports.
pub fn generate(parameters: &str) -> Result<ExitCode> {
    let directories = daemon::directories()?;
    let directory = directories.configuration;
    let exists = |name: &str| directory.join(name).symlink_metadata().is_ok();
    if exists("signing-key.pub") || exists("signing-key.sec") {
        bail!(
            "key pair exists under '{}'; remove it first",
            directory.display()
        );
    }
    let text = "Please wait while gathering entropy to generate the key pair;\n\
                this may take time...\n";
    let _ = output::stderr().write_all(text.as_bytes());
    let pair = KeyPair::generate(parameters).context("key generation failed")?;
    create(&directory)?;
    pair.save_for(&directory, owner_of_keys(directories.store.as_path()))?;
    Ok(ExitCode::SUCCESS)
}

/// Whose keys root generates: those of the store's owner, as whom the daemon runs, so that it can
/// read them. Others generate their own.
fn owner_of_keys(store: &Path) -> Option<Owner> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let store = store.metadata().ok()?;
    // The group of a store that belongs to root is that of its build users.
    Some(match store.uid() {
        0 => Owner { uid: 0, gid: 0 },
        uid => Owner {
            uid,
            gid: store.gid(),
        },
    })
}

/// Authorises imports signed by the public key on standard input.
pub fn authorize() -> Result<ExitCode> {
    let directory = daemon::directories()?.configuration;
    let mut text = Vec::new();
    output::say_if_typed("archive", "a public key");
    io::stdin().lock().take(MAX_KEY).read_to_end(&mut text)?;
    let key = PublicKey::parse(&text).context("failed to read public key")?;
    let file = directory.join("acl");
    if file
        .symlink_metadata()
        .is_ok_and(|metadata| metadata.is_symlink())
    {
        let text = format!(
            "replacing symbolic link {} with a regular file",
            file.display()
        );
        output::warning("archive", &text);
    }
    create(&directory)?;
    let mut acl = Acl::load(&directory)?;
    acl.authorize(key);
    acl.save(&directory)?;
    Ok(ExitCode::SUCCESS)
}

fn create(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create directory `{}'", directory.display()))
}
