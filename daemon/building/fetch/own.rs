//! Items that the daemon itself receives: what `guix-fetch` hands over becomes a store item only if
//! it is what was promised by a narinfo that is believed.

use store::{ExpectedItem, ReceiveOptions, ReceivedItem};

use super::super::attempt::Attempt;
use super::super::outcome::Failure;
use super::Fetch;
use crate::substituter::{Error, FetchError, OwnOffer};

impl Fetch {
    /// Receives the item, and registers it.
    pub(super) fn fetch_own(&self, offer: &OwnOffer, attempt: &Attempt) -> Result<(), Failure> {
        let expected = offer.expected();
        let received = self.receive_own(offer, &expected, &self.options(attempt), attempt)?;
        self.register(attempt, received.register())
    }

    /// Receives the item.
    pub(super) fn receive_own<'a>(
        &'a self,
        offer: &OwnOffer,
        expected: &'a ExpectedItem,
        options: &ReceiveOptions<'a>,
        attempt: &Attempt,
    ) -> Result<ReceivedItem<'a>, Failure> {
        self.started(attempt);
        attempt.fetches_from(offer.servers());
        let received = self.converse(attempt, std::process::id(), |conversation| {
            let store = &self.engine.store;
            let own = self.engine.substituter.own();
            own.fetch(
                offer,
                self.client,
                &self.session,
                &self.told,
                conversation,
                &mut |source| store.receive(source, expected, options),
            )
        });
        attempt.fetches_from(&[]);
        let received = received.map_err(|error| self.stopped(attempt, &error))?;
        received.map_err(|error| self.not_received(attempt, error))
    }

    /// What has come of registering the item.
    pub(super) fn register(
        &self,
        attempt: &Attempt,
        registered: store::Result<()>,
    ) -> Result<(), Failure> {
        registered.map_err(|error| self.not_received(attempt, FetchError::Store(error)))
    }

    fn not_received(&self, attempt: &Attempt, error: FetchError) -> Failure {
        match error {
            FetchError::Store(store::Error::Interrupted) => Failure::Misc,
            FetchError::Stopped(stop) => self.stopped(attempt, &Error::Stopped(stop)),
            FetchError::NotFound => self.not_found(attempt),
            FetchError::WrongHash { expected, actual } => self.has_wrong_hash(
                attempt,
                &expected.algorithm().to_string(),
                &expected.hex_or_base32(),
                &actual.hex_or_base32(),
            ),
            error => self.stopped(attempt, &Error::Fetch(error)),
        }
    }
}
