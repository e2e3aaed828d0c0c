//! A derivation to build, and everything that an attempt needs.

use std::collections::BTreeSet;
use std::sync::Arc;

use bstr::ByteSlice;
use formats::derivation::Derivation;
use formats::store_path::StorePath;
use protocol::operations::BuildMode;
use store::Checked;

use super::engine::Engine;
use super::hook::HookPool;
use super::input_closure::InputClosure;
use super::request::ClientIdentity;
use super::slots::Slots;
use super::turns::Postponed;
use crate::platform::runs_natively;
use crate::request_error::RequestError;
use crate::settings::SessionSettings;

/// One build; what its thread needs to know.
pub(super) struct Job {
    pub(super) engine: Arc<Engine>,
    pub(super) session: Arc<SessionSettings>,
    pub(super) client: ClientIdentity,
    pub(super) mode: BuildMode,
    /// The derivation's file.
    pub(super) path: StorePath,
    pub(super) derivation: Arc<Derivation>,
    pub(super) inputs: Arc<InputClosure>,
    /// The request's cache of checks of valid items' contents.
    pub(super) checked: Arc<Checked>,
    /// The hooks to ask first, if any.
    pub(super) hooks: Option<Arc<HookPool>>,
    /// The slots of the request.
    pub(super) slots: Arc<Slots>,
    /// How much of the request waits for it: see [`farm::order`].
    pub(super) rank: u64,
    /// What the hook has postponed of the request.
    pub(super) postponed: Arc<Postponed>,
}

impl Job {
    /// The derivation's output paths, by name.
    pub(super) fn outputs(&self) -> impl Iterator<Item = (&str, &StorePath)> {
        self.derivation
            .outputs
            .iter()
            .map(|(name, output)| (name.as_str(), &output.path))
    }

    /// The words (separated by blanks) of a variable of the derivation.
    pub(super) fn words(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let text = self
            .derivation
            .variable(name)
            .map(|value| value.as_bytes())
            .unwrap_or_default();
        text.split(|byte| b" \t\n\r".contains(byte))
            .filter(|word| !word.is_empty())
    }

    /// The host's files and directories that builds in a chroot see (`--chroot-directory`).
    pub(super) fn host_directories(&self) -> Vec<String> {
        (self.session.shown_directories())
            .map(|word| word.to_str_lossy().into_owned())
            .collect()
    }

    /// The subject of messages about limits.
    pub(super) fn description(&self) -> String {
        format!("building of `{}'", self.path)
    }

    /// The derivation's system.
    pub(super) fn platform(&self) -> String {
        self.derivation.system.to_str_lossy().into_owned()
    }

    /// Whether the hash of every output is known beforehand.
    pub(super) fn is_fixed_output(&self) -> bool {
        self.derivation
            .outputs
            .values()
            .all(|output| !output.hash.is_empty())
    }

    /// Whether no hook should be asked: the derivation prefers local builds, and can be built here.
    pub(super) fn must_be_local(&self) -> bool {
        let prefers_local = self
            .derivation
            .variable("preferLocalBuild")
            .is_some_and(|value| value == "1");
        let own = self.session.system.to_str_lossy();
        self.mode != BuildMode::Normal || prefers_local && runs_natively(&self.platform(), &own)
    }

    /// The closure of the derivation's inputs.
    pub(super) fn input_closure(&self) -> Result<Arc<BTreeSet<StorePath>>, RequestError> {
        self.inputs
            .get(&self.engine.store, &self.path, &self.derivation)
    }
}
