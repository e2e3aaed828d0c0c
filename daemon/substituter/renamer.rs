//! Replacing a file name in text that comes in pieces.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bstr::ByteSlice;

/// Replaces one name by another.
pub(super) struct Renamer {
    from: Vec<u8>,
    to: Vec<u8>,
    /// The end of the text so far, if it may be the beginning of the name.
    held: Vec<u8>,
}

impl Renamer {
    pub(super) fn new(from: &Path, to: &Path) -> Renamer {
        let [from, to] = [from, to].map(|path| path.as_os_str().as_bytes().to_owned());
        let held = Vec::new();
        Renamer { from, to, held }
    }

    /// The next piece of the text.
    pub(super) fn rename(&mut self, piece: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(piece);
        let text = std::mem::take(&mut self.held);
        let done = text.rfind(&self.from).map_or(0, |at| at + self.from.len());
        let rest = &text[done..];
        let begun = (1..self.from.len().min(rest.len() + 1))
            .rev()
            .find(|length| rest.ends_with(&self.from[..*length]));
        let (now, later) = text.split_at(text.len() - begun.unwrap_or(0));
        self.held = later.to_owned();
        now.replace(&self.from, &self.to)
    }

    /// What was held back, at the end of the text.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_however_the_text_is_cut() {
        let text = b"/a/a/b /a/b/a/b, /a/ /a/b/";
        for piece in 1..text.len() {
            let mut renamer = Renamer::new(Path::new("/a/b"), Path::new("X"));
            let mut renamed: Vec<u8> = text.chunks(piece).flat_map(|t| renamer.rename(t)).collect();
            renamed.extend(renamer.finish());
            assert_eq!(renamed.as_bstr(), "/aX XX, /a/ X/");
        }
    }
}
