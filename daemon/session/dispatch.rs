//! Requests, one after the other, and the table of their handlers.

use protocol::Request;

use super::session::{HandlerResult, Session};
use super::{
    add, build, farm, garbage, maintenance, options, queries, roots, substitutes, transfer,
};

/// Answers requests one by one, until the client disconnects. An error ends the connection.
pub fn serve(session: &mut Session<'_>) -> HandlerResult {
    loop {
        let end = match session.connection.next_request() {
            Ok(None) => return Ok(()),
            Ok(Some(request)) => perform(session, request),
            Err(error) => Err(error),
        };
        match end {
            Ok(()) => {}
            Err(error) => {
                if error.can_be_told() {
                    tracing::debug!("refused: {error}");
                    session.connection.fail(&error.to_string(), 1)?;
                }
                return Err(error);
            }
        }
    }
}

/// The table of operations and their handlers.
fn perform(session: &mut Session<'_>, request: Request) -> HandlerResult {
    match request {
        Request::IsValidPath(it) => queries::is_valid_path(session, it),
        Request::HasSubstitutes(it) => substitutes::has_substitutes(session, it),
        Request::QueryPathHash(it) => queries::query_path_hash(session, it),
        Request::QueryReferences(it) => queries::query_references(session, it),
        Request::QueryReferrers(it) => queries::query_referrers(session, it),
        Request::AddToStore(it) => add::add_to_store(session, it),
        Request::AddTextToStore(it) => add::add_text_to_store(session, it),
        Request::BuildPaths(it) => build::build_paths(session, it),
        Request::EnsurePath(it) => build::ensure_path(session, it),
        Request::AddTempRoot(it) => roots::add_temp_root(session, it),
        Request::AddIndirectRoot(it) => roots::add_indirect_root(session, it),
        Request::SyncWithGC(it) => roots::sync_with_gc(session, it),
        Request::FindRoots(it) => roots::find_roots(session, it),
        Request::ExportPath(it) => transfer::export_path(session, it),
        Request::QueryDeriver(it) => queries::query_deriver(session, it),
        Request::SetOptions(it) => options::set_options(session, it),
        Request::CollectGarbage(it) => garbage::collect_garbage(session, it),
        Request::QuerySubstitutablePathInfo(it) => {
            substitutes::query_substitutable_path_info(session, it)
        }
        Request::QueryDerivationOutputs(it) => queries::query_derivation_outputs(session, it),
        Request::QueryAllValidPaths(it) => queries::query_all_valid_paths(session, it),
        Request::QueryFailedPaths(it) => maintenance::query_failed_paths(session, it),
        Request::ClearFailedPaths(it) => maintenance::clear_failed_paths(session, it),
        Request::QueryPathInfo(it) => queries::query_path_info(session, it),
        Request::ImportPaths(it) => transfer::import_paths(session, it),
        Request::QueryDerivationOutputNames(it) => {
            queries::query_derivation_output_names(session, it)
        }
        Request::QueryPathFromHashPart(it) => queries::query_path_from_hash_part(session, it),
        Request::QuerySubstitutablePathInfos(it) => {
            substitutes::query_substitutable_path_infos(session, it)
        }
        Request::QueryValidPaths(it) => queries::query_valid_paths(session, it),
        Request::QuerySubstitutablePaths(it) => substitutes::query_substitutable_paths(session, it),
        Request::QueryValidDerivers(it) => queries::query_valid_derivers(session, it),
        Request::OptimiseStore(it) => maintenance::optimise_store(session, it),
        Request::VerifyStore(it) => maintenance::verify_store(session, it),
        Request::BuiltinBuilders(it) => maintenance::builtin_builders(session, it),
        Request::QueryFarmStatus(it) => farm::query_farm_status(session, it),
        Request::SubstituteURLs(it) => substitutes::substitute_urls(session, it),
    }
}
