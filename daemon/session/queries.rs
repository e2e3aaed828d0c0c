//! Questions that the database answers.

use protocol::operations::{
    IsValidPath, PathInfo, QueryAllValidPaths, QueryDerivationOutputNames, QueryDerivationOutputs,
    QueryDeriver, QueryPathFromHashPart, QueryPathHash, QueryPathInfo, QueryReferences,
    QueryReferrers, QueryValidDerivers, QueryValidPaths,
};

use super::failure::Failure;
use super::{Outcome, Session};

impl Session<'_> {
    pub(super) fn is_valid_path(&mut self, request: IsValidPath) -> Outcome {
        self.answer(request, |session, request| {
            // Unlike everywhere else, a bad path is an error of the operation only.
            let path = session.store.dir().parse(&request.path)?;
            Ok(session.store.is_valid(&path)?)
        })
    }

    pub(super) fn query_path_hash(&mut self, request: QueryPathHash) -> Outcome {
        self.answer(request, |session, request| {
            Ok(session.store.path_info(&request.path)?.hash)
        })
    }

    pub(super) fn query_references(&mut self, request: QueryReferences) -> Outcome {
        self.answer(request, |session, request| {
            Ok(session.store.query_references(&request.path)?)
        })
    }

    pub(super) fn query_referrers(&mut self, request: QueryReferrers) -> Outcome {
        self.answer(request, |session, request| {
            Ok(session.store.query_referrers(&request.path)?)
        })
    }

    pub(super) fn query_deriver(&mut self, request: QueryDeriver) -> Outcome {
        self.answer(request, |session, request| {
            Ok(session.store.query_deriver(&request.path)?)
        })
    }

    pub(super) fn query_derivation_outputs(&mut self, request: QueryDerivationOutputs) -> Outcome {
        self.answer(request, |session, request| {
            let outputs = session.store.query_derivation_outputs(&request.path)?;
            Ok(outputs.into_values().collect())
        })
    }

    pub(super) fn query_derivation_output_names(
        &mut self,
        request: QueryDerivationOutputNames,
    ) -> Outcome {
        self.answer(request, |session, request| {
            let outputs = session.store.query_derivation_outputs(&request.path)?;
            Ok(outputs.into_keys().collect())
        })
    }

    pub(super) fn query_valid_derivers(&mut self, request: QueryValidDerivers) -> Outcome {
        self.answer(request, |session, request| {
            Ok(session.store.query_valid_derivers(&request.path)?)
        })
    }

    pub(super) fn query_path_from_hash_part(&mut self, request: QueryPathFromHashPart) -> Outcome {
        self.answer(request, |session, request| {
            let invalid = || Failure::new("invalid hash part");
            let hash_part = std::str::from_utf8(&request.hash_part).map_err(|_| invalid())?;
            if hash_part.len() != 32 {
                return Err(invalid());
            }
            Ok(session.store.query_path_from_hash_part(hash_part)?)
        })
    }

    pub(super) fn query_valid_paths(&mut self, request: QueryValidPaths) -> Outcome {
        self.answer(request, |session, request| {
            Ok(session.store.query_valid_paths(&request.paths)?)
        })
    }

    pub(super) fn query_all_valid_paths(&mut self, request: QueryAllValidPaths) -> Outcome {
        self.answer(request, |session, _| {
            Ok(session.store.query_all_valid_paths()?.into_iter().collect())
        })
    }

    pub(super) fn query_path_info(&mut self, request: QueryPathInfo) -> Outcome {
        self.answer(request, |session, request| {
            let info = session.store.path_info(&request.path)?;
            Ok(PathInfo {
                deriver: info.deriver,
                hash: info.hash,
                references: info.references,
                // The protocol has room for 32 bits.
                registration_time: info.registration_time as u32,
                nar_size: info.nar_size,
            })
        })
    }
}
