//! Responses, and their bodies.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Bytes, Frame, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use super::gatherer::Viewer;

/// Kinds of content.
pub const JSON: &str = "application/json";
pub const TEXT: &str = "text/plain; charset=utf-8";
pub const EVENTS: &str = "text/event-stream";
pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How often something is sent where nothing happens, so that everybody knows that the other one is there.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Has browsers connect again two seconds after they have lost the connection.
pub const RETRY: &[u8] = b"retry: 2000\n\n";
/// A comment, which browsers ignore.
pub const COMMENT: &[u8] = b": nothing new\n\n";

/// Nothing but what is served here, and nobody around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every response says.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// What follows a head.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Events, until their sender is dropped.
    Events {
        /// One that waits, at most.
        events: mpsc::Receiver<Bytes>,
        /// Whoever looks as long as this is wanted.
        _viewer: Box<dyn Send>,
    },
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = match &mut *self {
            Body::Whole(bytes) if bytes.is_empty() => None,
            Body::Whole(bytes) => Some(std::mem::take(bytes)),
            Body::Events { events, .. } => match events.poll_recv(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(event) => event,
            },
        };
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Body::Events { .. } => SizeHint::default(),
        }
    }
}

/// A response with this content.
pub fn content(kind: &'static str, bytes: impl Into<Bytes>) -> Response<Body> {
    response(StatusCode::OK, kind, Body::Whole(bytes.into()))
}

/// Events.
pub fn events(events: mpsc::Receiver<Bytes>, viewer: impl Send + 'static) -> Response<Body> {
    let body = Body::Events {
        events,
        _viewer: Box::new(viewer),
    };
    response(StatusCode::OK, EVENTS, body)
}

/// Events that the farm's viewer follows.
pub fn farm_events(
    receiver: mpsc::Receiver<Bytes>,
    viewer: Viewer,
    place: impl Send + 'static,
) -> Response<Body> {
    events(receiver, (viewer, place))
}

/// Says why there is nothing else.
pub fn refusal(status: StatusCode, why: &str) -> Response<Body> {
    response(status, TEXT, Body::Whole(format!("{why}\n").into()))
}

/// Says that this depends on what a browser accepts, and whether the content is compressed.
pub fn vary(response: &mut Response<Body>, is_compressed: bool) {
    let is_content = response.status() == StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if is_compressed && is_content {
        let gzip = HeaderValue::from_static("gzip");
        headers.insert(header::CONTENT_ENCODING, gzip);
    }
}

fn response(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
