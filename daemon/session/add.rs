//! Adding files and texts.

use formats::hash::Algorithm;
use formats::store_path::StorePath;
use protocol::operations::{AddTextToStore, AddToStore};

use super::session::{Outcome, Session};
use crate::request_error::RequestError;

pub fn add_text_to_store(session: &mut Session<'_>, request: AddTextToStore) -> Outcome {
    session.run_interruptibly(request, |session, request| {
        let AddTextToStore {
            name,
            text,
            references,
        } = request;
        Ok(session
            .store
            .add_text(&name, &text, &references, &session.add_options())?)
    })
}

/// The nar follows the request at once, so it is taken before the client gets to hear of
/// anything. What is wrong with the request or the store is an error of the operation, once
/// the nar is out of the way; what is wrong with the nar itself ends the connection, for
/// nobody knows where it ends.
pub fn add_to_store(session: &mut Session<'_>, request: AddToStore) -> Outcome {
    let added = take_nar(session, &request);
    let (result, whole) = added;
    if let Err(error) = whole {
        let message = match &result {
            Err(failure) => failure.message.clone(),
            Ok(_) => error.to_string(),
        };
        return session.refuse(&message);
    }
    session.answer(request, |_, _| result)
}

/// Adds what the client sends. The second value says whether all of the nar was taken.
fn take_nar(
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
