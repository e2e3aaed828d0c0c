//! Shares of something limited, for those who use it up without knowing who else does.

/// Why no more can be taken, for the person who wants it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Exceeded(pub String);

/// One user's share of something limited: bytes, files, whatever whoever makes it counts.
/// Dropping it gives all of it back.
pub trait Quota: Send {
    /// Takes `amount` more.
    fn take(&mut self, amount: u64) -> Result<(), Exceeded>;

    /// Gives back all that was taken.
    fn give_back(&mut self);
}
