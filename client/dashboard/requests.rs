//! From a request to its response.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::compression;
use super::gatherer::{Gatherer, Pictures};
use super::hosts::Hosts;
use super::logs::{self, Logs};
use super::page;
use super::responses::{self, Body, COMMENT, KEEP_ALIVE, RETRY, content, refusal};

/// What is compressed for browsers that accept it.
const COMPRESSED: [&str; 2] = ["/api/v1/farm", "/api/v1/events"];

/// What is served.
pub struct Site {
    /// Its names.
    pub hosts: Hosts,
    /// The document.
    pub gatherer: Gatherer,
    /// The logs.
    pub logs: Logs,
    /// Room for browsers that follow, so that others are served, too.
    pub followers: Arc<Semaphore>,
}

/// Answers a request that has come to the address `local`.
pub async fn answer<T>(site: &Arc<Site>, local: IpAddr, request: &Request<T>) -> Response<Body> {
    if let Some(refused) = refuse(site, local, request) {
        return refused;
    }
    let is_head = request.method() == Method::HEAD;
    let path = request.uri().path();
    let is_compressed = COMPRESSED.contains(&path) && compression::is_accepted(request.headers());
    let mut answer = match path {
        "/api/v1/farm" => match site.gatherer.picture().await {
            Some(picture) if is_compressed => {
                let made = tokio::task::spawn_blocking(move || picture.compressed_json()).await;
                made.map_or_else(|_| unknown(), |made| content(responses::JSON, made))
            }
            Some(picture) => content(responses::JSON, picture.json()),
            None => unknown(),
        },
        "/metrics" => match site.gatherer.picture().await {
            Some(picture) => {
                let made = tokio::task::spawn_blocking(move || picture.metrics()).await;
                made.map_or_else(|_| unknown(), |made| content(responses::METRICS, made))
            }
            None => unknown(),
        },
        "/api/v1/events" if is_head => content(responses::EVENTS, ""),
        "/api/v1/events" => follow_farm(site, is_compressed),
        "/api/v1/log" => log(site, request.uri().query().unwrap_or(""), is_head).await,
        path => match page::file(path) {
            Some((kind, text)) => content(kind, text),
            None => refusal(StatusCode::NOT_FOUND, "there is no such page"),
        },
    };
    if COMPRESSED.contains(&path) {
        responses::vary(&mut answer, is_compressed);
    }
    answer
}

fn unknown() -> Response<Body> {
    refusal(
        StatusCode::SERVICE_UNAVAILABLE,
        "the state of the farm is not known yet",
    )
}

/// Refuses what no page of ours would ask.
fn refuse<T>(site: &Site, local: IpAddr, request: &Request<T>) -> Option<Response<Body>> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, other) = (hosts.next(), hosts.next());
    let Some(host) = host.filter(|_| other.is_none()) else {
        return Some(refusal(StatusCode::BAD_REQUEST, "a request has one Host"));
    };
    let named = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    let names = [host.to_str().ok(), named.or(Some("localhost"))];
    let is_ours = |name: &Option<&str>| name.is_some_and(|name| site.hosts.accept(name, local));
    if !names.iter().all(is_ours) {
        let why = "this is not a name of this server; `guix-client dashboard --host=NAME' adds one";
        return Some(refusal(StatusCode::MISDIRECTED_REQUEST, why));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = refusal(
            StatusCode::METHOD_NOT_ALLOWED,
            "everything here is only read",
        );
        let allowed = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(header::ALLOW, allowed);
        return Some(refused);
    }
    if is_of_another_page(request.headers(), request.uri().path())
        || has_other_origin(site, local, request.headers())
    {
        return Some(refusal(
            StatusCode::FORBIDDEN,
            "another site's page has asked for this",
        ));
    }
    None
}

/// Whether a page of another site has asked, other than by a link to the page.
fn is_of_another_page(headers: &HeaderMap, path: &str) -> bool {
    let mut sites = headers.get_all("sec-fetch-site").iter();
    let site = match (sites.next(), sites.next()) {
        (None, _) => return false,
        (Some(site), None) => site.as_bytes(),
        (Some(_), Some(_)) => return true,
    };
    if !matches!(site, b"cross-site" | b"same-site") {
        return false;
    }
    let says = |name: &str, word: &str| headers.get_all(name).iter().all(|value| value == word);
    let is_link = path == "/"
        && headers.contains_key("sec-fetch-mode")
        && says("sec-fetch-mode", "navigate")
        && says("sec-fetch-dest", "document");
    !is_link
}

/// Whether a page has asked that was not served here.
fn has_other_origin(site: &Site, local: IpAddr, headers: &HeaderMap) -> bool {
    let is_ours = |origin: &HeaderValue| {
        let host = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"));
        host.is_some_and(|(_, host)| site.hosts.accept(host, local))
    };
    !headers.get_all(header::ORIGIN).iter().all(is_ours)
}

/// Pictures of the farm as events.
fn follow_farm(site: &Arc<Site>, is_compressed: bool) -> Response<Body> {
    let Ok(place) = site.followers.clone().try_acquire_owned() else {
        return refusal(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many browsers look; try again later",
        );
    };
    let (sender, receiver) = mpsc::channel(1);
    let viewer = site.gatherer.viewer(is_compressed);
    let pictures = site.gatherer.pictures();
    tokio::spawn(send_pictures(pictures, sender, is_compressed));
    responses::farm_events(receiver, viewer, place)
}

/// Sends pictures as long as they are wanted. One that can't be sent yet makes room for the next one.
async fn send_pictures(mut pictures: Pictures, events: mpsc::Sender<Bytes>, is_compressed: bool) {
    let (begin, comment) = match is_compressed {
        true => (compression::first_piece(RETRY), compression::piece(COMMENT)),
        false => (Bytes::from_static(RETRY), Bytes::from_static(COMMENT)),
    };
    let _ = events.send(begin).await;
    loop {
        let Ok(room) = events.reserve().await else {
            return;
        };
        match timeout(KEEP_ALIVE, pictures.next()).await {
            Ok(Some(picture)) if is_compressed => {
                // It has been made already, unless nobody wanted it when it was gathered.
                let made = tokio::task::spawn_blocking(move || picture.compressed_event()).await;
                let Ok(made) = made else { return };
                room.send(made);
            }
            Ok(Some(picture)) => room.send(picture.event()),
            Ok(None) => return,
            Err(_) => room.send(comment.clone()),
        }
    }
}

/// A log, or what is added to it.
async fn log(site: &Arc<Site>, query: &str, is_head: bool) -> Response<Body> {
    let parameter = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let value = pairs
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)?;
        percent_decode_str(value).decode_utf8().ok()
    };
    let Some(name) = parameter("drv") else {
        return refusal(StatusCode::BAD_REQUEST, "expected drv=HASH-NAME.drv");
    };
    let follows = parameter("follow").is_some_and(|value| value == "1");
    match (follows, is_head) {
        (true, true) => content(responses::EVENTS, ""),
        (true, false) => match site.logs.follow(&name).await {
            Ok(events) => responses::events(events, ()),
            Err(error) => refused_log(error),
        },
        (false, _) => match site.logs.end(&name).await {
            Ok(text) => content(responses::TEXT, text),
            Err(error) => refused_log(error),
        },
    }
}

fn refused_log(error: logs::Error) -> Response<Body> {
    let status = match error {
        logs::Error::BadName => StatusCode::BAD_REQUEST,
        logs::Error::NoLog => StatusCode::NOT_FOUND,
        logs::Error::Busy => StatusCode::SERVICE_UNAVAILABLE,
        logs::Error::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refusal(status, &error.to_string())
}
