//! The conversation with the program that touches the network, in both directions: a stream is cut into
//! messages, and what is understood is written and read again.
#![no_main]

use substitutes::network::message::{Reply, Request};
use substitutes::network::{Event, Frames};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut frames = Frames::default();
    for piece in data.chunks(100) {
        frames.add(piece);
        loop {
            let message = match frames.take() {
                Ok(Some(message)) => message,
                Ok(None) => break,
                Err(_) => return,
            };
            if let Ok(request) = Request::decode(message) {
                let mut stream = Vec::new();
                request.append_to(&mut stream);
                assert_eq!(Request::decode(&stream[8..]).unwrap(), request);
            }
            if let Ok(reply) = Reply::decode(message) {
                if let Reply::Event {
                    event: Event::Failed(error),
                    ..
                } = &reply
                {
                    assert!(!error.text().contains(char::is_control));
                }
                let mut stream = Vec::new();
                reply.append_to(&mut stream);
                assert_eq!(Reply::decode(&stream[8..]).unwrap(), reply);
            }
        }
    }
});
