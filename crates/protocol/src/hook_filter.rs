//! What a build hook says while it builds: for clients, as [`HelperFilter`] has it, but for what only the daemon
//! is to know.

use crate::helper_filter::HelperFilter;
use crate::trace::Trace;

/// The event that is not for clients.
const VERDICT: &[u8] = b"@ build-verdict ";
/// A longer line is no verdict.
const LONGEST: usize = 16 << 10;

/// Filters the output of one hook, in pieces as they are read, and keeps its last verdict.
///
/// ```
/// use protocol::hook_filter::HookFilter;
///
/// let mut filter = HookFilter::default();
/// assert_eq!(filter.filter(b"trying\n@ build-ver"), b"trying\n");
/// assert_eq!(filter.filter(b"dict /x.drv exit code 9\nthe end\n"), b"the end\n");
/// assert_eq!(filter.verdict("/x.drv"), Some("exit code 9"));
/// ```
#[derive(Debug, Default)]
pub struct HookFilter {
    /// The current line, as long as it may be a verdict.
    line: Vec<u8>,
    /// The current line is none.
    inside_line: bool,
    /// The derivation, and the reason.
    verdict: Option<(String, String)>,
    others: HelperFilter,
}

impl HookFilter {
    /// Filters the next piece. What cannot be judged yet comes with the next one.
    pub fn filter(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut others = Vec::with_capacity(piece.len());
        for part in piece.split_inclusive(|&byte| byte == b'\n') {
            let is_end = part.ends_with(b"\n");
            if self.inside_line {
                others.extend_from_slice(part);
                self.inside_line = !is_end;
                continue;
            }
            self.line.extend_from_slice(part);
            let begin = &self.line[..self.line.len().min(VERDICT.len())];
            let may_be = VERDICT.starts_with(begin) && self.line.len() <= LONGEST;
            if may_be && !is_end {
                continue;
            }
            if !(may_be && self.keep()) {
                others.append(&mut self.line);
                self.inside_line = !is_end;
            }
            self.line.clear();
        }
        self.others.filter(&others)
    }

    /// What was held back, at the end of the output.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut rest = self.others.filter(&std::mem::take(&mut self.line));
        rest.extend(self.others.finish());
        rest
    }

    /// What it has said of the build of a derivation last.
    pub fn verdict(&self, derivation: &str) -> Option<&str> {
        let (of, reason) = self.verdict.as_ref()?;
        (of == derivation).then_some(reason)
    }

    /// Keeps the line if it is a verdict.
    fn keep(&mut self) -> bool {
        let line = self.line.strip_suffix(b"\n").unwrap_or(&self.line);
        let text = String::from_utf8_lossy(line);
        let Some(Trace::BuildVerdict { derivation, reason }) = Trace::parse(&text) else {
            return false;
        };
        self.verdict = Some((derivation.to_owned(), reason.to_owned()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(output: &[u8], size: usize) -> (Vec<u8>, HookFilter) {
        let mut filter = HookFilter::default();
        let mut filtered: Vec<u8> = output
            .chunks(size)
            .flat_map(|piece| filter.filter(piece))
            .collect();
        filtered.extend(filter.finish());
        (filtered, filter)
    }

    #[test]
    fn only_whole_lines_are_verdicts() {
        let said =
            b"@ build-verdict\nx @ build-verdict /a.drv b\n@ build-verdict /a.drv no line feed";
        for size in 1..said.len() {
            let (filtered, filter) = in_pieces(said, size);
            let expected = HelperFilter::whole(said);
            assert_eq!(
                String::from_utf8_lossy(&filtered),
                String::from_utf8_lossy(&expected)
            );
            assert_eq!(filter.verdict("/a.drv"), None);
        }
        let long = [&b"@ build-verdict /a.drv "[..], &[b'x'; LONGEST], b"\n"].concat();
        let (filtered, filter) = in_pieces(&long, 4096);
        assert!(filtered.starts_with(b" @ build-verdict"));
        assert_eq!(filter.verdict("/a.drv"), None);
    }

    proptest::proptest! {
        #[test]
        fn the_last_verdict_is_kept_and_nothing_else(
            output in "(@ build-(verdict|remote) /[ab][.]drv [cd]\n|@|\n|\r|\u{1b}|x){0,12}",
            size in 1usize..9,
        ) {
            let is_verdict = |line: &&str| line.starts_with("@ build-verdict ") && line.ends_with('\n');
            let lines: Vec<&str> = output.split_inclusive('\n').collect();
            let others: String = lines.iter().filter(|line| !is_verdict(line)).copied().collect();
            let last = lines.iter().rev().find(|line| is_verdict(line));
            let (filtered, filter) = in_pieces(output.as_bytes(), size);
            assert_eq!(filtered, HelperFilter::whole(others.as_bytes()));
            let expected = last.map(|line| &line["@ build-verdict /a.drv ".len()..line.len() - 1]);
            let derivation = last.map_or("/a.drv", |line| &line["@ build-verdict ".len()..][..6]);
            assert_eq!(filter.verdict(derivation), expected);
        }
    }
}
