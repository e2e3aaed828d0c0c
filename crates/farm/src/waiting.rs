//! Why something waits: the reasons, in one set of words for logs, tables and JSON.
//!
//! ```
//! use farm::waiting::Waiting;
//!
//! let reason = Waiting::Machine(Some("'one': its only slot is taken".to_owned()));
//! assert_eq!(reason.name(), "machine");
//! assert_eq!(
//!     reason.about("`hello.drv'"),
//!     "no build machine is free for `hello.drv': 'one': its only slot is taken"
//! );
//! ```

/// Why a goal waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Its next step hasn't been taken yet.
    Turn,
    /// So many other goals have to end before.
    Inputs(u64),
    /// Another client's request builds it.
    OtherClient,
    /// An attempt to build it is being stopped.
    Stopping,
    /// Another process holds the lock of an output.
    Lock,
    /// Its client's slots are in use, or it has as many attempts as it may.
    Slot,
    /// Its client has as many descriptors as it may.
    Limit,
    /// All build users are in use.
    BuildUser,
    /// The hook is being asked about as many derivations as it may be.
    HookTurn,
    /// The hook has been asked.
    HookAnswer,
    /// The hook has postponed it, perhaps for a reason.
    Machine(Option<String>),
    /// A client who has had less comes first.
    FairShare,
}

impl Waiting {
    /// The name in JSON. Names don't change.
    pub fn name(&self) -> &'static str {
        match self {
            Waiting::Turn => "turn",
            Waiting::Inputs(_) => "inputs",
            Waiting::OtherClient => "other-client",
            Waiting::Stopping => "stopping",
            Waiting::Lock => "lock",
            Waiting::Slot => "slot",
            Waiting::Limit => "limit",
            Waiting::BuildUser => "build-user",
            Waiting::HookTurn => "hook-turn",
            Waiting::HookAnswer => "hook-answer",
            Waiting::Machine(_) => "machine",
            Waiting::FairShare => "fair-share",
        }
    }

    /// The reason in a sentence about `subject`, which is what waits.
    pub fn about(&self, subject: &str) -> String {
        match self {
            Waiting::Turn => format!("{subject} has not been looked at yet"),
            Waiting::Inputs(1) => format!("{subject} waits for something else to be done"),
            Waiting::Inputs(count) => format!("{subject} waits for {count} others to be done"),
            Waiting::OtherClient => format!("{subject} is being built for another client"),
            Waiting::Stopping => format!("an attempt to build {subject} is being stopped"),
            Waiting::Lock => format!("{subject} is being built by another process"),
            Waiting::Slot => format!("all slots of the client who wants {subject} are in use"),
            Waiting::Limit => format!("so much runs for this user that {subject} has to wait"),
            Waiting::BuildUser => format!("no build user is free for {subject}"),
            Waiting::HookTurn => {
                format!("the build hook is asked about others before {subject}")
            }
            Waiting::HookAnswer => {
                format!("the build hook is choosing a machine for {subject}")
            }
            Waiting::Machine(None) => format!("no build machine is free for {subject}"),
            Waiting::Machine(Some(reason)) => {
                format!("no build machine is free for {subject}: {reason}")
            }
            Waiting::FairShare => {
                format!("a client who has had less is served before {subject}")
            }
        }
    }
}
