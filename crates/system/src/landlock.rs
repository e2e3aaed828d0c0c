//! Landlock (`landlock(7)`): restricting a process without namespaces, if the kernel supports it.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// The newest version that is used; kernels with an older one enforce what they support.
const NEWEST: ABI = ABI::V6;

/// Restricts this process and its descendants permanently: they can't send signals to processes
/// outside, connect to abstract Unix sockets created outside, or, with `writable`, write anywhere
/// but beneath those files and directories (missing ones are ignored). Returns `false`, and does
/// nothing, if the kernel doesn't support Landlock.
///
/// Modes, owners, times and attributes of files are no part of it.
pub fn confine(writable: Option<&[&Path]>) -> io::Result<bool> {
    try_to_confine(writable).map_err(io::Error::other)
}

fn try_to_confine(writable: Option<&[&Path]>) -> Result<bool, RulesetError> {
    let scoped = Ruleset::default().scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    let status = match writable {
        None => scoped.create()?.restrict_self()?,
        Some(writable) => scoped
            .handle_access(AccessFs::from_write(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(writable, AccessFs::from_write(NEWEST)))?
            .restrict_self()?,
    };
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Restricts this process and its descendants permanently: of all files, they can only read those
/// beneath `readable` (missing ones are ignored); they can't serve TCP, send signals to processes
/// outside, or connect to abstract Unix sockets created outside. Returns `false`, and does nothing, if
/// the kernel doesn't support Landlock.
pub fn confine_to_reading(readable: &[&Path]) -> io::Result<bool> {
    try_to_confine_to_reading(readable).map_err(io::Error::other)
}

fn try_to_confine_to_reading(readable: &[&Path]) -> Result<bool, RulesetError> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(readable, reading))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Restricts this process and its descendants permanently, as [`confine_to_reading`] does; but they can also change
/// files beneath `changeable`, and connect by TCP to these ports, and no others. What they listen on already, they
/// serve.
pub fn confine_server(readable: &[&Path], changeable: &[&Path], ports: &[u16]) -> io::Result<bool> {
    try_to_confine_server(readable, changeable, ports).map_err(io::Error::other)
}

fn try_to_confine_server(
    readable: &[&Path],
    changeable: &[&Path],
    ports: &[u16],
) -> Result<bool, RulesetError> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    let changing = reading
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::RemoveFile;
    let rules = ports
        .iter()
        .map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp)));
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(readable, reading))?
        .add_rules(path_beneath_rules(changeable, changing))?
        .add_rules(rules)?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
