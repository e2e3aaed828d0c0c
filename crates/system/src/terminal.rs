//! Terminals.

use std::io::IsTerminal;
use std::os::fd::{AsFd, AsRawFd};

use crate::signal::Signal;

/// The size of a terminal that doesn't know its own: columns and rows.
pub const SIZE: (u16, u16) = (80, 24);

/// The signals that end or stop a program that draws on a screen, or change the screen.
pub const SIGNALS: [Signal; 7] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Whether `stream` is a terminal that understands control sequences.
pub fn is_screen(stream: &impl IsTerminal) -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    stream.is_terminal() && !is_dumb
}

/// The number of columns; `None` if this is no terminal, or one that doesn't know.
pub fn width(terminal: &impl AsFd) -> Option<u16> {
    size(terminal).map(|(columns, _)| columns)
}

/// The numbers of columns and rows; `None` if this is no terminal, or one that doesn't know.
pub fn size(terminal: &impl AsFd) -> Option<(u16, u16)> {
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is borrowed for the call, which fills in this structure.
    let result = unsafe {
        libc::ioctl(
            terminal.as_fd().as_raw_fd(),
            libc::TIOCGWINSZ,
            &raw mut size,
        )
    };
    (result == 0 && size.ws_col > 0).then_some((size.ws_col, size.ws_row))
}

/// A text that takes no more than so many columns, if each of its characters takes one: what is cut off is
/// marked by `…`.
///
/// ```
/// assert_eq!(system::terminal::cut("machine", 5), "mach…");
/// ```
pub fn cut(text: &str, columns: usize) -> String {
    match text.char_indices().nth(columns) {
        None => text.to_owned(),
        Some(_) => {
            let kept = text.chars().take(columns.saturating_sub(1));
            kept.chain(['…']).take(columns).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_says_how_wide_it_is() {
        let size = nix::pty::Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let terminal = nix::pty::openpty(Some(&size), None).unwrap();
        assert_eq!(width(&terminal.slave), Some(80));
        assert_eq!(super::size(&terminal.slave), Some((80, 24)));
        assert_eq!(width(&std::fs::File::open("/dev/null").unwrap()), None);
    }
}
