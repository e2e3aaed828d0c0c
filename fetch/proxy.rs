//! Which proxy libcurl asks for a URL, for messages: libcurl-env(3).

use std::env;

/// The variable that names the proxy for `url`, and the proxy without user and password.
pub fn of(url: &str) -> Option<(&'static str, String)> {
    chosen(url, |name| env::var(name).ok())
}

fn chosen(url: &str, variable: impl Fn(&str) -> Option<String>) -> Option<(&'static str, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host(authority.rsplit('@').next().unwrap_or_default());
    let value = |name: &str| variable(name).filter(|value| !value.is_empty());
    let except = value("no_proxy").or_else(|| value("NO_PROXY"));
    if except.is_some_and(|list| is_among(host, &list)) {
        return None;
    }
    let own: &[&'static str] = match scheme.to_ascii_lowercase().as_str() {
        // Not in upper case: whoever asks a CGI script chooses that.
        "http" => &["http_proxy"],
        "https" => &["https_proxy", "HTTPS_PROXY"],
        "ftp" => &["ftp_proxy", "FTP_PROXY"],
        _ => &[],
    };
    let mut names = own.iter().chain(&["all_proxy", "ALL_PROXY"]);
    names.find_map(|name| Some((*name, without_user(&value(name)?))))
}

/// A host without its port, and without the brackets of an IPv6 address.
fn host(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// Whether a list of hosts and domains has this host. (Networks, as in 10.0.0.0/8, are not understood.)
fn is_among(host: &str, list: &str) -> bool {
    let host = host.to_ascii_lowercase();
    list.split([',', ' ']).any(|name| {
        let name = name.trim_start_matches('.').to_ascii_lowercase();
        let before = host.strip_suffix(name.as_str());
        name == "*"
            || !name.is_empty()
                && before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    })
}

fn without_user(proxy: &str) -> String {
    let (scheme, rest) = match proxy.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), proxy),
    };
    let place = rest.rsplit('@').next().unwrap_or_default();
    format!("{scheme}{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_chosen_as_by_libcurl() {
        let variables = [
            ("http_proxy", "http://me:secret@one:3128"),
            ("HTTPS_PROXY", "two:8080"),
            ("all_proxy", "socks5h://three"),
            ("no_proxy", "localhost, .inner.example,10.1.2.3"),
        ];
        let of = |url: &str| {
            let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
            let variable = |name: &str| Some(find(name)?.1.to_owned());
            chosen(url, variable)
        };
        let is = |name, proxy: &str| Some((name, proxy.to_owned()));
        assert_eq!(of("http://a/x"), is("http_proxy", "http://one:3128"));
        assert_eq!(of("HTTPS://a:443"), is("HTTPS_PROXY", "two:8080"));
        assert_eq!(of("ftp://u@a/"), is("all_proxy", "socks5h://three"));
        for url in [
            "http://localhost:80/",
            "https://x@INNER.example/",
            "http://a.inner.example",
            "http://10.1.2.3/",
            "nothing",
        ] {
            assert_eq!(of(url), None, "{url}");
        }
        assert!(of("http://outer.example/inner.example").is_some());
        assert!(of("http://xlocalhost/").is_some());
        assert_eq!(chosen("http://a/", |_| None), None);
    }
}
