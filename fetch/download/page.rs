//! Small answers in JSON.

use std::time::Duration;

use curl::easy::{Easy2, Handler, List, WriteError};
use serde_json::Value;

use crate::libcurl::{DOWNLOAD_AGENT, DOWNLOAD_CONNECT_TIMEOUT, reason};

/// The largest answer, in bytes.
const MAX_SIZE: usize = 16 * 1024 * 1024;
/// The most time that a question takes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// How a page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    Get,
    /// `POST` of nothing.
    Post,
}

/// The status, and the answer of a page: null if it is not JSON. Redirections are not followed, so
/// that the token stays where it belongs.
pub fn get(url: &str, method: Method, token: Option<&str>) -> Result<(u32, Value), String> {
    let mut easy = Easy2::new(Page(Vec::new()));
    let mut perform = || {
        easy.url(url)?;
        easy.useragent(DOWNLOAD_AGENT)?;
        easy.connect_timeout(DOWNLOAD_CONNECT_TIMEOUT)?;
        easy.timeout(TIMEOUT)?;
        easy.ssl_verify_peer(false)?;
        easy.ssl_verify_host(false)?;
        if method == Method::Post {
            easy.post(true)?;
            easy.post_fields_copy(b"")?;
        }
        if let Some(token) = token {
            let mut headers = List::new();
            headers.append(&format!("Authorization: Bearer {token}"))?;
            easy.http_headers(headers)?;
        }
        easy.perform()?;
        easy.response_code()
    };
    let status =
        perform().map_err(|error: curl::Error| format!("{url}: {}", reason(&error, url)))?;
    let answer = serde_json::from_slice(&easy.get_ref().0);
    Ok((status, answer.unwrap_or(Value::Null)))
}

struct Page(Vec<u8>);

impl Handler for Page {
    fn write(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        if self.0.len() + data.len() > MAX_SIZE {
            return Ok(0);
        }
        self.0.extend_from_slice(data);
        Ok(data.len())
    }
}
