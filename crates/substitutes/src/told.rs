//! What somebody has been told, so that nobody hears the same of a server with every step of a build.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use system::sync::Mutex;

/// After so long, it is news again.
const WHILE: Duration = Duration::from_secs(600);
/// So many things are kept.
const LIMIT: usize = 256;

/// What the client of a session has been told, and when.
#[derive(Debug, Default)]
pub struct Told(Mutex<HashMap<String, Instant>>);

impl Told {
    /// Whether something is news, which it no longer is then.
    pub fn is_news(&self, what: &str) -> bool {
        let now = Instant::now();
        let mut told = self.0.lock();
        told.retain(|_, when| now.duration_since(*when) < WHILE);
        if told.len() >= LIMIT {
            told.clear();
        }
        told.insert(what.to_owned(), now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_news_twice_in_a_while() {
        let told = Told::default();
        assert!(told.is_news("a") && told.is_news("b"));
        assert!(!told.is_news("a") && !told.is_news("b"));
        for number in 0..LIMIT {
            assert!(told.is_news(&number.to_string()));
        }
        assert!(told.0.lock().len() <= LIMIT);
    }
}
