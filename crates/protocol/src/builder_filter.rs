//! What a builder prints, for a client: as it is, but for lines that would be taken for a hook's.
//!
//! A client takes `@ build-remote` lines in a process's output for events, and can't tell a hook's words from
//! those of the builder whose output the hook passes on, nor a hook from a builder. The daemon can.

use std::borrow::Cow;

/// The event that only a hook reports.
const HOOKS: &[u8] = b"@ build-remote ";

/// Filters the output of one builder, in pieces as they are read. Nothing is held back.
#[derive(Debug, Default)]
pub struct BuilderFilter {
    /// The end of the last piece is inside a line that is none of a hook's.
    inside_line: bool,
    /// How much of [`HOOKS`] the current line has been until now, if it may be one.
    matched: usize,
}

impl BuilderFilter {
    /// Filters the next piece. A line of a hook gets a space before it, or where the last piece ended.
    ///
    /// ```
    /// use protocol::builder_filter::BuilderFilter;
    ///
    /// let mut filter = BuilderFilter::default();
    /// let said = filter.filter(b"a\n@ build-remote /x.drv m\n@ build");
    /// assert_eq!(*said, *b"a\n @ build-remote /x.drv m\n@ build");
    /// assert_eq!(*filter.filter(b"-remote /x.drv m\n"), *b" -remote /x.drv m\n");
    /// ```
    pub fn filter<'a>(&mut self, piece: &'a [u8]) -> Cow<'a, [u8]> {
        let mut marks = Vec::new();
        let mut start = 0;
        for line in piece.split_inclusive(|&byte| ends_line(byte)) {
            if !self.inside_line {
                let rest = &HOOKS[self.matched..];
                let count = rest.iter().zip(line).take_while(|(a, b)| a == b).count();
                if count == rest.len() {
                    marks.push((start, self.matched));
                }
                self.inside_line = count < line.len() || count == rest.len();
                self.matched += count;
            }
            if line.last().copied().is_some_and(ends_line) {
                *self = BuilderFilter::default();
            }
            start += line.len();
        }
        if marks.is_empty() {
            return Cow::Borrowed(piece);
        }
        let mut filtered = Vec::with_capacity(piece.len() + marks.len());
        let mut from = 0;
        for (start, before) in marks {
            filtered.extend_from_slice(&piece[from..start]);
            // Between the name and its space, another space would not change the name.
            filtered.push(if before == HOOKS.len() - 1 {
                b':'
            } else {
                b' '
            });
            from = start;
        }
        filtered.extend_from_slice(&piece[from..]);
        Cow::Owned(filtered)
    }
}

fn ends_line(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Trace;

    fn in_pieces(output: &[u8], size: usize) -> Vec<u8> {
        let mut filter = BuilderFilter::default();
        let pieces = output.chunks(size);
        pieces
            .flat_map(|piece| filter.filter(piece).into_owned())
            .collect()
    }

    #[test]
    fn other_lines_are_unchanged() {
        let said = b"@ build\n@ build-remot\n @ build-remote /x.drv m\nx @ build-remote /x.drv m\n\
                     @ download-started /f u -\n@ build-log 1 2\n\xff\r@ build-remote\n@";
        for size in 1..said.len() {
            assert_eq!(in_pieces(said, size), said);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_builder_speaks_for_a_hook(
            output in "(@ build-remote |@ |build-remote| |@ build-|[\r\n]|x){0,12}",
            size in 1usize..20,
        ) {
            let filtered = in_pieces(output.as_bytes(), size);
            for line in String::from_utf8(filtered).unwrap().split(['\r', '\n']) {
                assert!(!line.starts_with("@ build-remote "), "{line:?}");
                assert!(!matches!(Trace::parse(line), Some(Trace::BuildRemote { .. })), "{line:?}");
            }
        }
    }
}
