//! Landlock (`landlock(7)`): what a process may do outside of namespaces, where the kernel has it.

use std::io;
use std::path::Path;

use landlock::{
    ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
    path_beneath_rules,
};

/// The newest version that is made use of; kernels that have an older one enforce what they can.
const NEWEST: ABI = ABI::V6;

/// Confines this process, and all it becomes and starts, for ever: it can signal nothing outside,
/// connect to no abstract Unix socket made outside, and, with `writable`, write only beneath those
/// files and directories (those that exist). Where the kernel has no Landlock, nothing is changed.
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
