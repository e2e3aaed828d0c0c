//! Collecting garbage.

use protocol::operations::{CollectGarbage, Collected, GcAction};
use store::GcRequest;
use system::ids::user_name;

use super::session::{HandlerResult, Session};
use crate::request_error::RequestError;

pub fn collect_garbage(session: &mut Session<'_>, request: CollectGarbage) -> HandlerResult {
    if session.client.remote {
        return session.refuse("Garbage collection is disabled for remote hosts.");
    }
    session.run_interruptibly(request, |session, request| {
        if request.ignore_liveness {
            return Err(RequestError::new("you are not allowed to ignore liveness"));
        }
        let action = match request.action {
            GcAction::ReturnLive => store::GcAction::ReturnLive,
            GcAction::ReturnDead => store::GcAction::ReturnDead,
            GcAction::DeleteDead => store::GcAction::DeleteDead,
            GcAction::DeleteSpecific => store::GcAction::DeleteSpecific,
        };
        let asker = session.credentials();
        let wanted = GcRequest {
            action,
            ignore_liveness: false,
            paths: request.paths.into_iter().collect(),
            max_freed: request.max_freed,
            keep_outputs: session.settings.gc_keep_outputs,
            keep_derivations: session.settings.gc_keep_derivations,
            own_roots: Some(&session.temp_roots),
            asker: Some(&asker),
        };
        let deletes = matches!(
            request.action,
            GcAction::DeleteDead | GcAction::DeleteSpecific
        );
        if deletes {
            // On a full disk, the database needs some space to forget items.
            session.store.set_reserved_space(false);
        }
        let result = session.store.collect_garbage(&wanted, &*session.log)?;
        if deletes {
            session.store.set_reserved_space(true);
            tracing::info!(
                "collected garbage for user {}: {} items, {:.1} MiB freed",
                session.client.uid.map_or_else(String::new, user_name),
                result.paths.len(),
                result.bytes_freed as f64 / f64::from(1 << 20)
            );
        } else {
            session.count_paths(result.paths.len() as u64)?;
        }
        let dir = session.store.dir();
        Ok(Collected {
            paths: result
                .paths
                .iter()
                .filter_map(|path| dir.parse(path).ok())
                .collect(),
            bytes_freed: result.bytes_freed,
            obsolete: 0,
        })
    })
}
