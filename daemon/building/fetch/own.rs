//! Items that the daemon itself receives: what `guix-fetch` hands over becomes a store item only if
//! it is what was promised by a narinfo that is believed.

use store::ReceiveOptions;

use super::super::attempt::Attempt;
use super::super::outcome::Failure;
use super::Fetch;
use crate::request_error::RequestError;
use crate::substituter::{Error, FetchError, OwnOffer};

impl Fetch {
    /// Receives the item, and registers it.
    pub(super) fn fetch_own(
        &self,
        offer: &OwnOffer,
        attempt: &Attempt,
    ) -> Result<Result<(), Failure>, RequestError> {
        let expected = offer.expected();
        let options = ReceiveOptions {
            temp_roots: &self.temp_roots,
            deduplicate: self.session.auto_optimise_store,
            progress: attempt,
        };
        self.started(attempt);
        let fetched = self.converse(attempt, std::process::id(), |conversation| {
            let store = &self.engine.store;
            let own = self.engine.substituter.own();
            own.fetch(offer, &self.session, conversation, &mut |source| {
                store.receive(source, &expected, &options)
            })
        });
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(error) => return Ok(Err(self.stopped(attempt, &error))),
        };
        let registered =
            fetched.and_then(|received| received.register().map_err(FetchError::Store));
        Ok(Err(match registered {
            Ok(()) => return Ok(Ok(())),
            Err(FetchError::Store(store::Error::Interrupted)) => Failure::Misc,
            Err(FetchError::Stopped(stop)) => self.stopped(attempt, &Error::Stopped(stop)),
            Err(FetchError::NotFound) => self.not_found(attempt),
            Err(FetchError::WrongHash { expected, actual }) => self.has_wrong_hash(
                attempt,
                &expected.algorithm().to_string(),
                &expected.hex_or_base32(),
                &actual.hex_or_base32(),
            ),
            Err(error) => self.stopped(attempt, &Error::Fetch(error)),
        }))
    }
}
