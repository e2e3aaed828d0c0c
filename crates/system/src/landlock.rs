//! Landlock (`landlock(7)`): restricting a process without namespaces, if the kernel supports it.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
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
    let status = reading_only(readable, AccessNet::BindTcp.into())?.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Nothing but reading beneath `readable`, and nothing of `network`.
fn reading_only(
    readable: &[&Path],
    network: BitFlags<AccessNet>,
) -> Result<RulesetCreated, RulesetError> {
    let reading = AccessFs::ReadFile | AccessFs::ReadDir;
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(network)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(readable, reading))
}

/// How much of what was asked for the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// All of it.
    Full,
    /// What it knew when it was made: of files since Linux 5.13, of TCP since 6.7, of signals and abstract sockets since 6.12.
    Part,
    /// Nothing.
    None,
}

/// Restricts this process and its descendants permanently, as [`confine_to_reading`] does; but they can also read
/// which files there are beneath `listable`, and connect by TCP to these ports, and no others. What they listen on
/// already, they serve.
///
/// Of the network, this is about TCP only, and not about multipath TCP.
pub fn confine_server(
    readable: &[&Path],
    listable: &[&Path],
    ports: &[u16],
) -> io::Result<Enforcement> {
    try_to_confine_server(readable, listable, ports).map_err(io::Error::other)
}

fn try_to_confine_server(
    readable: &[&Path],
    listable: &[&Path],
    ports: &[u16],
) -> Result<Enforcement, RulesetError> {
    let rules = ports
        .iter()
        .map(|port| Ok::<_, RulesetError>(NetPort::new(*port, AccessNet::ConnectTcp)));
    let status = reading_only(readable, AccessNet::BindTcp | AccessNet::ConnectTcp)?
        .add_rules(path_beneath_rules(listable, AccessFs::ReadDir))?
        .add_rules(rules)?
        .restrict_self()?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => Enforcement::Full,
        RulesetStatus::PartiallyEnforced => Enforcement::Part,
        RulesetStatus::NotEnforced => Enforcement::None,
    })
}
