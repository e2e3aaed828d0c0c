//! Compression of what is sent, where a browser accepts it: gzip (RFC 1952).
//!
//! A stream of events is one gzip stream that never ends. Each event in it is compressed once for all browsers: a
//! piece that refers to nothing before it, and ends at a byte's end with all that it contains.

use std::io::Write;

use flate2::write::GzEncoder;
use flate2::{Compress, Compression, FlushCompress, Status};
use hyper::body::Bytes;
use hyper::header::{ACCEPT_ENCODING, HeaderMap};

/// How hard to try: documents consist of much the same words, and have to be compressed every few seconds.
const LEVEL: Compression = Compression::fast();
/// What a stream begins with: nothing is known of a file.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Whether a browser accepts gzip.
pub fn is_accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let mut codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let mut words = coding.split(';').map(str::trim);
        let is_gzip = words
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let is_refused = |word: &str| {
            let weight = word.strip_prefix("q=").or(word.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.trim().parse() == Ok(0.0))
        };
        is_gzip && !words.any(is_refused)
    })
}

/// Compresses a whole content.
pub fn whole(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), LEVEL);
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default().into()
}

/// The beginning of a stream, with the first piece.
pub fn first_piece(bytes: &[u8]) -> Bytes {
    let mut stream = HEAD.to_vec();
    add_piece(&mut stream, bytes);
    stream.into()
}

/// A piece of a stream.
pub fn piece(bytes: &[u8]) -> Bytes {
    let mut piece = Vec::new();
    add_piece(&mut piece, bytes);
    piece.into()
}

fn add_piece(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut compress = Compress::new(LEVEL, false);
    loop {
        out.reserve(4096.max(bytes.len() / 8));
        let done = usize::try_from(compress.total_in()).unwrap_or(bytes.len());
        let status = compress.compress_vec(&bytes[done..], out, FlushCompress::Full);
        // All has been written once there was room left.
        if out.len() < out.capacity() || !matches!(status, Ok(Status::Ok)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_browser_says_what_it_accepts() {
        let accepted = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.append(ACCEPT_ENCODING, "br;q=1".parse().unwrap());
            headers.append(ACCEPT_ENCODING, value.parse().unwrap());
            is_accepted(&headers)
        };
        for good in ["gzip", "deflate, GZIP;q=0.5", "a,gzip ; q=1"] {
            assert!(accepted(good), "{good}");
        }
        for bad in ["", "x-gzip", "gzip;q=0", "gzip; Q=0.000", "*", "gzipped"] {
            assert!(!accepted(bad), "{bad}");
        }
        assert!(!is_accepted(&HeaderMap::new()));
    }

    #[test]
    fn every_piece_can_be_read_as_soon_as_it_is_there() {
        let long: String = (0..200_000).map(|number| number.to_string()).collect();
        let pieces = ["first", &long, "", "third\n", &long];
        let mut stream = first_piece(pieces[0].as_bytes()).to_vec();
        let mut expected = pieces[0].to_owned();
        for next in &pieces[1..] {
            stream.extend(piece(next.as_bytes()));
            expected += next;
            let mut text = vec![0; expected.len()];
            let mut decoder = flate2::read::GzDecoder::new(&stream[..]);
            decoder.read_exact(&mut text).unwrap();
            assert!(text == expected.as_bytes());
        }
        assert!(stream.len() < expected.len(), "{}", stream.len());
        let mut text = String::new();
        let whole = whole(long.as_bytes());
        let mut decoder = flate2::read::GzDecoder::new(&whole[..]);
        decoder.read_to_string(&mut text).unwrap();
        assert!(text == long);
    }
}
