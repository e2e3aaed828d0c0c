//! Tests of [`super`].

use super::*;
use crate::network::Frames;
use proptest::prelude::*;

fn compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(&Compression::ALL[..])
}

fn id() -> impl Strategy<Value = RequestId> {
    any::<u64>().prop_map(RequestId)
}

fn requester() -> impl Strategy<Value = Requester> {
    any::<(u64, u64)>().prop_map(|(user, exchange)| Requester {
        user: User(user),
        exchange,
    })
}

fn patience() -> impl Strategy<Value = Duration> {
    (0u64..=3_600_000).prop_map(Duration::from_millis)
}

fn source() -> impl Strategy<Value = SourceMessage> {
    ("[a-z:/.]{0,40}", compression())
        .prop_map(|(url, compression)| SourceMessage::Url { url, compression })
}

fn request() -> impl Strategy<Value = Request> {
    let files = prop::collection::vec(compression(), 0..=FILES_LIMIT);
    let fetch = (
        requester(),
        id(),
        any::<u64>(),
        patience(),
        prop::collection::vec(source(), 1..10),
        files,
    )
        .prop_map(|(requester, id, size, patience, mut sources, files)| {
            sources.extend(
                files
                    .into_iter()
                    .map(|compression| SourceMessage::File { compression }),
            );
            Request::Fetch {
                requester,
                id,
                size,
                patience,
                sources,
            }
        });
    prop_oneof![
        any::<u64>().prop_map(|version| Request::Hello { version }),
        (requester(), id(), ".{0,40}", 0..=BODY_LIMIT, patience()).prop_map(
            |(requester, id, url, limit, patience)| Request::Get {
                requester,
                id,
                url,
                limit,
                patience,
            }
        ),
        fetch,
        id().prop_map(|id| Request::Cancel { id }),
    ]
}

fn error() -> impl Strategy<Value = NetworkError> {
    let kinds = prop_oneof![
        Just(ErrorKind::HostNotFound),
        Just(ErrorKind::Connect),
        Just(ErrorKind::Tls),
        Just(ErrorKind::Timeout),
        any::<u32>().prop_map(ErrorKind::Status),
        Just(ErrorKind::Interrupted),
        Just(ErrorKind::TooLarge),
        Just(ErrorKind::Corrupt),
        Just(ErrorKind::Protocol),
        Just(ErrorKind::Refused),
        Just(ErrorKind::Output),
        Just(ErrorKind::ProgramDied),
        Just(ErrorKind::ProgramMissing),
    ];
    (kinds, "(?s).{0,2000}").prop_map(|(kind, text)| NetworkError::new(kind, text))
}

fn event() -> impl Strategy<Value = Event> {
    let index = 0..SOURCES_LIMIT;
    let total = any::<Option<u64>>();
    prop_oneof![
        (
            any::<u32>(),
            any::<Option<u64>>(),
            any::<Option<u64>>(),
            prop::collection::vec(any::<u8>(), 0..100)
        )
            .prop_map(|(status, max_age, retry_after, body)| Event::Response {
                status,
                max_age,
                retry_after,
                body
            }),
        Just(Event::Busy),
        (index.clone(), total.clone()).prop_map(|(source, total)| Event::Started { source, total }),
        (any::<u64>(), total).prop_map(|(done, total)| Event::Progress { done, total }),
        (index.clone(), error()).prop_map(|(source, error)| Event::SourceFailed { source, error }),
        (index, any::<u64>(), any::<u32>()).prop_map(|(source, received, waited)| {
            Event::Finished {
                source,
                received,
                waited,
            }
        }),
        error().prop_map(Event::Failed),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        any::<u64>().prop_map(|version| Reply::Hello { version }),
        (id(), event()).prop_map(|(id, event)| Reply::Event { id, event }),
    ]
}

/// The only message in a stream.
fn unframed(stream: &[u8]) -> Vec<u8> {
    let mut frames = Frames::default();
    frames.add(stream);
    let message = frames.take().unwrap().unwrap().to_vec();
    assert!(frames.take().unwrap().is_none() && !frames.is_partial());
    message
}

proptest! {
    #[test]
    fn requests_arrive_as_they_were_sent(request in request()) {
        let mut stream = Vec::new();
        request.append_to(&mut stream);
        prop_assert_eq!(Request::decode(&unframed(&stream)).unwrap(), request);
    }

    #[test]
    fn replies_arrive_as_they_were_sent(reply in reply()) {
        let mut stream = Vec::new();
        reply.append_to(&mut stream);
        prop_assert_eq!(Reply::decode(&unframed(&stream)).unwrap(), reply);
    }

    #[test]
    fn damaged_messages_are_refused_or_understood(
        reply in reply(),
        request in request(),
        at in any::<prop::sample::Index>(),
        byte: u8,
        cut in any::<prop::sample::Index>(),
    ) {
        for (number, mut message) in [
            { let mut out = Vec::new(); reply.append_to(&mut out); out },
            { let mut out = Vec::new(); request.append_to(&mut out); out },
        ].into_iter().enumerate() {
            message.drain(..8);
            let at = at.index(message.len());
            message[at] = byte;
            let cut = &message[..cut.index(message.len())];
            if number == 0 {
                prop_assert!(Reply::decode(cut).is_err());
                let _ = Reply::decode(&message);
            } else {
                prop_assert!(Request::decode(cut).is_err());
                let _ = Request::decode(&message);
            }
        }
    }
}

#[test]
fn an_error_is_one_printable_line() {
    let mut message = Vec::new();
    for word in [FAILED, 1, 0, 0] {
        message.write_u64(word).unwrap();
    }
    message
        .write_bytes(b"no\n@ build-failed \x1b[2J\xff")
        .unwrap();
    let Reply::Event {
        event: Event::Failed(error),
        ..
    } = Reply::decode(&message).unwrap()
    else {
        panic!("not an error");
    };
    assert!(!error.text().contains(['\n', '\x1b']));
}

#[test]
fn long_lists_and_strings_are_refused() {
    let fetch = |count: u64| {
        let mut message = Vec::new();
        for word in [FETCH, 1, 1, 1, 1, 1, count] {
            message.write_u64(word).unwrap();
        }
        message
    };
    for count in [0, SOURCES_LIMIT as u64 + 1, u64::MAX] {
        assert!(matches!(
            Request::decode(&fetch(count)),
            Err(MessageError::Sources(_))
        ));
    }
    let mut files = fetch(FILES_LIMIT as u64 + 1);
    for _ in 0..=FILES_LIMIT {
        files.write_u64(FILE).unwrap();
    }
    assert!(matches!(
        Request::decode(&files),
        Err(MessageError::Sources(_))
    ));
    let mut get = Vec::new();
    for word in [GET, 1, 1, 1, 1, 1] {
        get.write_u64(word).unwrap();
    }
    get.write_bytes("x".repeat(URL_LIMIT + 1)).unwrap();
    assert!(matches!(
        Request::decode(&get),
        Err(MessageError::Field(wire::Error::TooLong { .. }))
    ));
}
