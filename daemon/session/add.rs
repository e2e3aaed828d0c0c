//! Adding files and texts.

use formats::derivation;
use formats::hash::Algorithm;
use formats::store_path::StorePath;
use protocol::operations::{AddTextToStore, AddToStore};

use super::session::{HandlerResult, Session};
use crate::request_error::RequestError;

/// What is kept in memory of files that are being added, in bytes.
const ADD_MEMORY: u64 = 1 << 20;

pub fn add_text_to_store(session: &mut Session<'_>, request: AddTextToStore) -> HandlerResult {
    session.run_interruptibly(request, |session, request| {
        let AddTextToStore {
            name,
            text,
            references,
        } = request;
        if name.ends_with(derivation::EXTENSION) {
            let parsing = (text.len() as u64).saturating_mul(derivation::PARSING_FACTOR);
            session.connection.take_memory(parsing)?;
        }
        Ok(session
            .store
            .add_text(&name, &text, &references, &session.add_options())?)
    })
}

/// The nar follows the request immediately, so it is read before anything is sent to the client. An
/// invalid request or an error of the store is an error of the operation, and the nar is skipped;
/// an invalid nar ends the connection, because it is unknown where it ends.
pub fn add_to_store(session: &mut Session<'_>, request: AddToStore) -> HandlerResult {
    if let Err(exceeded) = session.connection.take_memory(ADD_MEMORY) {
        return session.refuse(&exceeded.to_string());
    }
    let (result, whole) = read_nar(session, &request);
    if let Err(error) = whole {
        let message = match &result {
            Err(failure) => failure.message.clone(),
            Ok(_) => error.to_string(),
        };
        return session.refuse(&message);
    }
    session.answer(request, |_, _| result)
}

/// Adds the files from the client. Also returns whether the nar was read to its end.
fn read_nar(
    session: &mut Session<'_>,
    request: &AddToStore,
) -> (Result<StorePath, RequestError>, std::io::Result<()>) {
    let options = store::AddOptions {
        temp_roots: &session.temp_roots,
        repair: false,
        progress: &*session.log,
    };
    let mut nar = session.connection.nar();
    let added = match request.algorithm.parse::<Algorithm>() {
        Ok(algorithm) => session
            .store
            .add_nar(
                &request.name,
                request.recursive,
                algorithm,
                &mut nar,
                &options,
            )
            .map_err(RequestError::from),
        Err(_) => Err(RequestError::new(format!(
            "unknown hash algorithm `{}'",
            request.algorithm
        ))),
    };
    (added, nar.drain())
}
