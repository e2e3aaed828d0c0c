//! Error messages of the system.

use std::io;

/// The message of `strerror`: `No such file or directory`, without the number that Rust adds (`(os
/// error 2)`), which Guix doesn't show. An error that doesn't come from a system call is shown as
/// it is.
///
/// ```
/// let error = std::fs::File::open("/nonexistent").unwrap_err();
/// assert_eq!(system::errno::message(&error), "No such file or directory");
/// ```
pub fn message(error: &io::Error) -> String {
    let text = error.to_string();
    match error.raw_os_error() {
        Some(_) => without_number(&text).to_owned(),
        None => text,
    }
}

/// Removes Rust's error number from the end of a message.
///
/// ```
/// use system::errno::without_number;
///
/// let text = "opening `file': No such file or directory (os error 2)";
/// assert_eq!(without_number(text), "opening `file': No such file or directory");
/// assert_eq!(without_number("not found (really)"), "not found (really)");
/// ```
pub fn without_number(text: &str) -> &str {
    match text.rsplit_once(" (os error ") {
        Some((words, number)) if number.ends_with(')') => words,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_have_its_words_only() {
        let of = |code| message(&io::Error::from_raw_os_error(code));
        assert_eq!(of(libc::EACCES), "Permission denied");
        assert_eq!(of(libc::EIO), "Input/output error");
        assert_eq!(message(&io::Error::other("a word")), "a word");
        assert_eq!(without_number("x (os error 2"), "x (os error 2");
    }
}
