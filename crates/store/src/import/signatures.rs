//! Verifying the signatures of many items, in several threads.

use std::sync::OnceLock;
use std::thread;

use formats::hash::Hash;
use formats::store_path::StorePath;

use super::arrival::Arrival;
use crate::error::{Error, Result};
use crate::export::Authority;

/// The maximum number of threads that verify the signatures of one archive.
const THREADS: usize = 4;

/// The hash of an item, and its signature.
struct SignedItem<'a> {
    path: &'a StorePath,
    signature: Option<&'a [u8]>,
    /// The hash that has to be signed.
    signed: &'a Hash,
}

/// The result of verifying signatures.
#[derive(Default)]
pub(super) struct Verdict {
    /// The number of items with valid signatures, from the first on.
    pub(super) good: usize,
    /// The error of the next item.
    pub(super) error: Option<Error>,
}

/// Verifies the signatures of `items` in other threads while `work` runs.
pub(super) fn verify_during<T>(
    items: &[Arrival<'_>],
    authority: Option<&dyn Authority>,
    work: impl FnOnce() -> T,
) -> (T, Verdict) {
    let signed: Vec<SignedItem<'_>> = items
        .iter()
        .map(|item| SignedItem {
            path: &item.fields.path,
            signature: item
                .signature
                .as_ref()
                .map(|signature| signature.as_slice()),
            signed: &item.signed,
        })
        .collect();
    let (Some(authority), 2..) = (authority, signed.len()) else {
        return (work(), verify(&signed, authority));
    };
    thread::scope(|scope| {
        let shares = signed.chunks(signed.len().div_ceil(threads()));
        let threads_with_shares: Vec<_> = shares
            .map(|share| {
                let verify = move || verify(share, Some(authority));
                let thread = thread::Builder::new().name("signatures".into());
                (share, thread.spawn_scoped(scope, verify))
            })
            .collect();
        let done = work();
        let mut verdict = Verdict::default();
        for (share, thread) in threads_with_shares {
            let found = match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // No thread could be started.
                Err(_) => verify(share, Some(authority)),
            };
            verdict.good += found.good;
            verdict.error = found.error;
            if verdict.error.is_some() {
                break;
            }
        }
        (done, verdict)
    })
}

/// The number of threads to use.
fn threads() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    let count = PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, Into::into));
    (*count).min(THREADS)
}

/// Verifies signatures in order, up to the first that isn't valid.
fn verify(signed: &[SignedItem<'_>], authority: Option<&dyn Authority>) -> Verdict {
    let mut verdict = Verdict::default();
    for item in signed {
        if let Err(error) = authority.map_or(Ok(()), |authority| verify_one(item, authority)) {
            verdict.error = Some(error);
            break;
        }
        verdict.good += 1;
    }
    verdict
}

fn verify_one(item: &SignedItem<'_>, authority: &dyn Authority) -> Result<()> {
    let signature = item
        .signature
        .ok_or_else(|| Error::Unsigned(item.path.clone()))?;
    let verified = authority.verify(signature).map_err(Error::Other)?;
    if verified == *item.signed {
        Ok(())
    } else {
        Err(Error::SignedHashMismatch)
    }
}
