//! The state of everything that is being built.

use protocol::operations::{FarmStatus, QueryFarmStatus};

use super::session::{HandlerResult, Session};

pub fn query_farm_status(session: &mut Session<'_>, request: QueryFarmStatus) -> HandlerResult {
    session.answer(request, |session, _| {
        let status = session.scheduler().status(&session.client);
        // The client may not read it.
        session.connection.take_memory(status.len() as u64)?;
        Ok(FarmStatus(status.as_str().into()))
    })
}
