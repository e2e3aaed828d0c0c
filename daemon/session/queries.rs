//! Queries of the database.

use protocol::operations::{
    IsValidPath, PathInfo, QueryAllValidPaths, QueryDerivationOutputNames, QueryDerivationOutputs,
    QueryDeriver, QueryPathFromHashPart, QueryPathHash, QueryPathInfo, QueryReferences,
    QueryReferrers, QueryValidDerivers, QueryValidPaths,
};

use super::session::{HandlerResult, Session};
use crate::request_error::RequestError;

pub fn is_valid_path(session: &mut Session<'_>, request: IsValidPath) -> HandlerResult {
    session.answer(request, |session, request| {
        // Unlike in other operations, an invalid path doesn't end the connection.
        let path = session.store.dir().parse(&request.path)?;
        Ok(session.store.is_valid(&path)?)
    })
}

pub fn query_path_hash(session: &mut Session<'_>, request: QueryPathHash) -> HandlerResult {
    session.answer(request, |session, request| {
        Ok(session.store.path_info(&request.path)?.hash)
    })
}

pub fn query_references(session: &mut Session<'_>, request: QueryReferences) -> HandlerResult {
    session.answer(request, |session, request| {
        let references = session.store.query_references(&request.path)?;
        session.count_paths(references.len() as u64)?;
        Ok(references)
    })
}

pub fn query_referrers(session: &mut Session<'_>, request: QueryReferrers) -> HandlerResult {
    session.answer(request, |session, request| {
        // Before there are any in memory: there may be as many as items in the store.
        session.count_paths(session.store.count_referrers(&request.path)?)?;
        Ok(session.store.query_referrers(&request.path)?)
    })
}

pub fn query_deriver(session: &mut Session<'_>, request: QueryDeriver) -> HandlerResult {
    session.answer(request, |session, request| {
        Ok(session.store.query_deriver(&request.path)?)
    })
}

pub fn query_derivation_outputs(
    session: &mut Session<'_>,
    request: QueryDerivationOutputs,
) -> HandlerResult {
    session.answer(request, |session, request| {
        let outputs = session.store.query_derivation_outputs(&request.path)?;
        session.count_paths(outputs.len() as u64)?;
        Ok(outputs.into_values().collect())
    })
}

pub fn query_derivation_output_names(
    session: &mut Session<'_>,
    request: QueryDerivationOutputNames,
) -> HandlerResult {
    session.answer(request, |session, request| {
        let outputs = session.store.query_derivation_outputs(&request.path)?;
        session.count_paths(outputs.len() as u64)?;
        Ok(outputs.into_keys().collect())
    })
}

pub fn query_valid_derivers(
    session: &mut Session<'_>,
    request: QueryValidDerivers,
) -> HandlerResult {
    session.answer(request, |session, request| {
        let derivers = session.store.query_valid_derivers(&request.path)?;
        session.count_paths(derivers.len() as u64)?;
        Ok(derivers)
    })
}

pub fn query_path_from_hash_part(
    session: &mut Session<'_>,
    request: QueryPathFromHashPart,
) -> HandlerResult {
    session.answer(request, |session, request| {
        let invalid = || RequestError::new("invalid hash part");
        let hash_part = std::str::from_utf8(&request.hash_part).map_err(|_| invalid())?;
        if hash_part.len() != 32 {
            return Err(invalid());
        }
        Ok(session.store.query_path_from_hash_part(hash_part)?)
    })
}

pub fn query_valid_paths(session: &mut Session<'_>, request: QueryValidPaths) -> HandlerResult {
    session.answer(request, |session, request| {
        let valid = session.store.query_valid_paths(&request.paths)?;
        session.count_paths(valid.len() as u64)?;
        Ok(valid)
    })
}

pub fn query_all_valid_paths(
    session: &mut Session<'_>,
    request: QueryAllValidPaths,
) -> HandlerResult {
    session.answer(request, |session, _| {
        session.count_paths(session.store.count_valid_paths()?)?;
        let paths = session.store.query_all_valid_paths()?;
        Ok(paths.into_iter().collect())
    })
}

pub fn query_path_info(session: &mut Session<'_>, request: QueryPathInfo) -> HandlerResult {
    session.answer(request, |session, request| {
        let info = session.store.path_info(&request.path)?;
        session.count_paths(info.references.len() as u64)?;
        Ok(PathInfo {
            deriver: info.deriver,
            hash: info.hash,
            references: info.references,
            // The protocol only has 32 bits for this.
            registration_time: info.registration_time as u32,
            nar_size: info.nar_size,
        })
    })
}
