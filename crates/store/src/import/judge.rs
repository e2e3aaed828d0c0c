//! Judging the signatures of many items in several threads.

use std::sync::OnceLock;
use std::thread;

use formats::hash::Hash;
use formats::store_path::StorePath;

use super::Arrival;
use crate::error::{Error, Result};
use crate::export::Authority;

/// At most how many threads judge the items of one archive.
const THREADS: usize = 4;

/// What there is to judge of an item.
struct Claim<'a> {
    path: &'a StorePath,
    signature: Option<&'a [u8]>,
    /// What has to be signed.
    signed: &'a Hash,
}

/// What was found.
#[derive(Default)]
pub(super) struct Verdict {
    /// How many items have good signatures, from the first on.
    pub(super) good: usize,
    /// What is wrong with the one that comes next.
    pub(super) error: Option<Error>,
}

/// Judges the signatures of `items` while `work` is done.
pub(super) fn meanwhile<T>(
    items: &[Arrival<'_>],
    authority: Option<&dyn Authority>,
    work: impl FnOnce() -> T,
) -> (T, Verdict) {
    let claims: Vec<Claim<'_>> = items
        .iter()
        .map(|item| Claim {
            path: &item.fields.path,
            signature: item
                .signature
                .as_ref()
                .map(|signature| signature.as_slice()),
            signed: &item.signed,
        })
        .collect();
    let (Some(authority), 2..) = (authority, claims.len()) else {
        return (work(), judge(&claims, authority));
    };
    thread::scope(|scope| {
        let shares = claims.chunks(claims.len().div_ceil(threads()));
        let judging: Vec<_> = shares
            .map(|share| {
                let judge = move || judge(share, Some(authority));
                let thread = thread::Builder::new().name("signatures".into());
                (share, thread.spawn_scoped(scope, judge))
            })
            .collect();
        let done = work();
        let mut verdict = Verdict::default();
        for (share, thread) in judging {
            let found = match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                // No thread could be started.
                Err(_) => judge(share, Some(authority)),
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

/// How many threads are of use.
fn threads() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    let count = PROCESSORS.get_or_init(|| thread::available_parallelism().map_or(1, Into::into));
    (*count).min(THREADS)
}

/// Judges one item after the other, up to the first bad one.
fn judge(claims: &[Claim<'_>], authority: Option<&dyn Authority>) -> Verdict {
    let mut verdict = Verdict::default();
    for claim in claims {
        if let Err(error) = authority.map_or(Ok(()), |authority| judge_one(claim, authority)) {
            verdict.error = Some(error);
            break;
        }
        verdict.good += 1;
    }
    verdict
}

fn judge_one(claim: &Claim<'_>, authority: &dyn Authority) -> Result<()> {
    let signature = claim
        .signature
        .ok_or_else(|| Error::Unsigned(claim.path.clone()))?;
    let verified = authority.verify(signature).map_err(Error::Other)?;
    if verified == *claim.signed {
        Ok(())
    } else {
        Err(Error::SignedHashMismatch)
    }
}
