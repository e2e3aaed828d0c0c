//! The agent's reply to the request to fetch an item: one line.

use bstr::{BStr, BString, ByteSlice};

/// The result of a request to fetch an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubstituteReply {
    /// The item was fetched to its destination.
    Success {
        /// `ALGORITHM:HASH` of the nar.
        hash: BString,
        /// The size of the nar in bytes.
        nar_size: u64,
    },
    /// No server has it.
    NotFound,
    /// A server sent data with another hash.
    HashMismatch {
        /// The algorithm of both hashes.
        algorithm: BString,
        /// The hash in the narinfo.
        expected: BString,
        /// The hash of the downloaded data.
        actual: BString,
    },
    /// Any other reply, as the agent wrote it.
    Other(BString),
}

impl SubstituteReply {
    /// Parses a line, given without its newline.
    pub fn parse(line: &BStr) -> SubstituteReply {
        let words: Vec<&BStr> = line
            .split(|byte| *byte == b' ')
            .filter(|word| !word.is_empty())
            .map(BStr::new)
            .collect();
        let other = || SubstituteReply::Other(line.to_owned());
        match words.as_slice() {
            [status, hash, size] if *status == "success" => {
                match size.to_str().ok().and_then(|text| text.parse().ok()) {
                    Some(nar_size) => SubstituteReply::Success {
                        hash: (*hash).to_owned(),
                        nar_size,
                    },
                    None => other(),
                }
            }
            [status] if *status == "not-found" => SubstituteReply::NotFound,
            [status, algorithm, expected, actual] if *status == "hash-mismatch" => {
                SubstituteReply::HashMismatch {
                    algorithm: (*algorithm).to_owned(),
                    expected: (*expected).to_owned(),
                    actual: (*actual).to_owned(),
                }
            }
            _ => other(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_to_substitutions() {
        let parse = |line: &str| SubstituteReply::parse(line.into());
        assert_eq!(
            parse("success sha256:abc 12"),
            SubstituteReply::Success {
                hash: "sha256:abc".into(),
                nar_size: 12
            }
        );
        assert_eq!(parse("not-found"), SubstituteReply::NotFound);
        assert_eq!(
            parse("hash-mismatch sha256 a b"),
            SubstituteReply::HashMismatch {
                algorithm: "sha256".into(),
                expected: "a".into(),
                actual: "b".into()
            }
        );
        for odd in ["success", "success sha256:a x", "", "not-found now"] {
            assert_eq!(parse(odd), SubstituteReply::Other(odd.into()));
        }
    }
}
