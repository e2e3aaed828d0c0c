//! What this program has to know of a URL before libcurl takes it: whether it fetches such, and from
//! which server.

use substitutes::network::{ErrorKind, NetworkError};

/// The server of a URL: scheme, host and port, in lower case, without user and password. An error if
/// the URL is neither `http` nor `https`.
pub fn server(url: &str) -> Result<String, NetworkError> {
    let refused = |text: String| NetworkError::new(ErrorKind::Refused, text);
    let (scheme, rest) = url
        .split_once("://")
        .ok_or_else(|| refused(format!("{}: invalid URL", without_password(url))))?;
    let scheme = scheme.to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        let text = format!("{scheme}: unsupported server URI scheme");
        return Err(refused(text));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    // What libcurl could take for another server than this does: it would be called by the wrong name.
    let is_ambiguous = authority.contains('\\') || authority.matches('@').count() > 1;
    if host.is_empty() || is_ambiguous || url.chars().any(|c| c.is_control() || c == ' ') {
        return Err(refused(format!("{}: invalid URL", without_password(url))));
    }
    Ok(format!("{scheme}://{}", host.to_ascii_lowercase()))
}

/// The URL as messages show it: without user and password.
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_urls() {
        for (url, expected) in [
            ("http://Example.org/a/b", "http://example.org"),
            ("HTTPS://example.org:8443?x", "https://example.org:8443"),
            ("https://me:s%40cret@example.org/@x", "https://example.org"),
            ("http://[::1]:80/", "http://[::1]:80"),
        ] {
            assert_eq!(server(url).unwrap(), expected);
        }
        for url in [
            "file:///etc/passwd",
            "ftp://example.org/",
            "gopher://x/",
            "example.org",
            "http://",
            "http:///x",
            "http://me@/x",
            "http://a b/",
            "http://a/\nb",
            "http://a\\@b/",
            "http://a@b@c/",
            "http://a\\b",
            "",
        ] {
            assert_eq!(
                server(url).map_err(|error| error.kind()),
                Err(ErrorKind::Refused),
                "{url:?}"
            );
        }
    }

    #[test]
    fn messages_have_no_passwords() {
        assert_eq!(
            without_password("https://me:secret@example.org/x@y"),
            "https://example.org/x@y"
        );
        assert_eq!(without_password("http://a/b@c"), "http://a/b@c");
        assert_eq!(without_password("rubbish@x"), "rubbish@x");
    }
}
