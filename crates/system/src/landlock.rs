//! Landlock (`landlock(7)`): restricting a process without namespaces, if the kernel supports it.

use std::io;
use std::path::Path;

use landlock::{
    ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
    path_beneath_rules,
};

/// The newest version that is used; kernels with an older one enforce what they support.
const NEWEST: ABI = ABI::V6;

/// Restricts this process and its descendants permanently: they can't send signals to processes
/// outside, connect to abstract Unix sockets created outside, or, with `writable`, write anywhere
/// but beneath those files and directories (missing ones are ignored). Does nothing if the kernel
/// doesn't support Landlock.
pub fn confine(writable: Option<&[&Path]>) -> io::Result<()> {
    try_to_confine(writable).map_err(io::Error::other)
}

fn try_to_confine(writable: Option<&[&Path]>) -> Result<(), RulesetError> {
    let scoped = Ruleset::default().scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    let Some(writable) = writable else {
        scoped.create()?.restrict_self()?;
        return Ok(());
    };
    scoped
        .handle_access(AccessFs::from_write(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(writable, AccessFs::from_write(NEWEST)))?
        .restrict_self()?;
    Ok(())
}
