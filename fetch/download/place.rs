//! Places where a file may be: URLs, mirrors of URLs, archives.

use std::time::{SystemTime, UNIX_EPOCH};

use formats::mirrors::MirrorLists;

/// The scheme of a URL, in lower case (RFC 3986, section 3.1).
pub fn scheme(url: &str) -> Option<String> {
    let (scheme, _) = url.split_once(':')?;
    let mut letters = scheme.chars();
    let begins = letters
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic());
    let continues = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    (begins && letters.all(continues)).then(|| scheme.to_ascii_lowercase())
}

/// What precedes the path of a URL: its scheme, user and password, and host with port.
fn origin(url: &str) -> Option<(&str, Option<&str>, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(match authority.rsplit_once('@') {
        Some((user, host)) => (scheme, Some(user), host),
        None => (scheme, None, authority),
    })
}

/// The host of a URL, for messages.
pub fn host(url: &str) -> &str {
    let address = origin(url).map_or(url, |(_, _, address)| address);
    match address.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
        _ => address,
    }
}

/// The URL of a redirection from `url` to `target`, with the user and password of `url` if it is on
/// the same server.
pub fn keep_credentials(url: &str, target: String) -> String {
    match (origin(url), origin(&target)) {
        (Some((scheme, Some(user), host)), Some((other_scheme, None, other_host)))
            if scheme == other_scheme && host == other_host =>
        {
            target.replacen("://", &format!("://{user}@"), 1)
        }
        _ => target,
    }
}

/// The URLs that `url` stands for: itself, or for `mirror://NAME/FILE` those of the mirrors. `None`
/// if there are none with that name.
pub fn expand(url: &str, lists: &MirrorLists) -> Option<Vec<String>> {
    if scheme(url).as_deref() != Some("mirror") {
        return Some(vec![url.to_owned()]);
    }
    let rest = url.split_once("://")?.1;
    let (name, file) = rest.split_once('/').unwrap_or((rest, ""));
    let file = file.trim_matches('/');
    let urls = lists.of(name).iter();
    let urls: Vec<String> = urls
        .map(|mirror| format!("{}/{file}", mirror.trim_end_matches('/')))
        .collect();
    (!urls.is_empty()).then_some(urls)
}

/// The copy of a web page in the Internet Archive that is nearest to `now`.
pub fn internet_archive(url: &str, now: SystemTime) -> Option<String> {
    if !matches!(scheme(url).as_deref(), Some("http" | "https")) {
        return None;
    }
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    Some(format!(
        "https://web.archive.org/web/{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}/{url}"
    ))
}

/// Year, month and day of a day since 1970, in UTC.
fn date(mut day: u64) -> (u64, u64, u64) {
    let is_leap = |year: u64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    // 400 years have as many days each time.
    let mut year = 1970 + 400 * (day / 146_097);
    day %= 146_097;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if day < length {
            break;
        }
        day -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn schemes() {
        for (url, expected) in [
            ("HTTPS://user:pass@Example.org:80/a@b?c", Some("https")),
            ("file:///etc/passwd", Some("file")),
            ("mirror://gnu/hello", Some("mirror")),
            ("/tmp/foo", None),
            ("a b://c", None),
            (":x", None),
        ] {
            assert_eq!(scheme(url).as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn hosts() {
        for (url, expected) in [
            ("https://user:pass@example.org:80/a@b?c", "example.org"),
            ("ftp://[::1]:21/x", "[::1]"),
            ("ftp://[::1]/x", "[::1]"),
        ] {
            assert_eq!(host(url), expected);
        }
    }

    #[test]
    fn passwords_stay_on_their_server() {
        let from = "https://me:secret@a.org:8080/x@y";
        for (target, expected) in [
            ("https://a.org:8080/z", "https://me:secret@a.org:8080/z"),
            ("https://you@a.org:8080/z", "https://you@a.org:8080/z"),
            ("https://a.org/z", "https://a.org/z"),
            ("http://a.org:8080/z", "http://a.org:8080/z"),
            (
                "https://b.org:8080/@a.org:8080/",
                "https://b.org:8080/@a.org:8080/",
            ),
        ] {
            assert_eq!(keep_credentials(from, target.to_owned()), expected);
        }
        let without = keep_credentials("https://a.org/x@b", "https://a.org/z".to_owned());
        assert_eq!(without, "https://a.org/z");
    }

    #[test]
    fn mirrors_are_joined_by_one_slash() {
        let lists = "((gnu \"https://a/gnu/\" \"ftp://b\"))";
        let lists = MirrorLists::parse(lists).unwrap();
        assert_eq!(
            expand("mirror://gnu//hello/hello.tar.gz", &lists).unwrap(),
            [
                "https://a/gnu/hello/hello.tar.gz",
                "ftp://b/hello/hello.tar.gz"
            ]
        );
        assert_eq!(expand("mirror://kde/x", &lists), None);
        assert_eq!(expand("http://x/y", &lists).unwrap(), ["http://x/y"]);
    }

    #[test]
    fn the_internet_archive_is_asked_for_the_present_copy() {
        for (seconds, expected) in [
            (0, "19700101000000"),
            (951_827_696, "20000229123456"),
            (1_795_737_600, "20261127000000"),
            (4_107_542_399, "21000228235959"),
        ] {
            let now = UNIX_EPOCH + Duration::from_secs(seconds);
            let url = internet_archive("http://a/b", now).unwrap();
            assert_eq!(
                url,
                format!("https://web.archive.org/web/{expected}/http://a/b")
            );
        }
        assert_eq!(internet_archive("ftp://a/b", UNIX_EPOCH), None);
    }
}
