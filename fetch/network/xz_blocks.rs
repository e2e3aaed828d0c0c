//! How much memory the first block of an xz file needs (the .xz file format, sections 2.1.1 and 3.1).

/// The length of the header of a stream, and one byte more: the coded length of a block's header.
pub const START: usize = 13;
/// LZMA2's number among the filters.
const LZMA2: u64 = 0x21;
/// The most bytes of a number.
const NUMBER_LIMIT: usize = 9;

/// How long the beginning of a file is, with the first block's header, of which these are the first
/// bytes.
pub fn length(start: &[u8]) -> usize {
    let words = start.get(START - 1).map_or(0, |byte| usize::from(*byte));
    START + 4 * words + 3
}

/// The dictionary that the first block asks for, in bytes: 0 if there is no block, or its header can't
/// be understood, and so not be decompressed.
pub fn dictionary(beginning: &[u8]) -> u64 {
    find_dictionary(beginning).unwrap_or(0)
}

fn find_dictionary(beginning: &[u8]) -> Option<u64> {
    let mut rest = beginning.get(START..)?;
    let flags = take(&mut rest, 1)?[0];
    for has_size in [flags & 0x40, flags & 0x80] {
        if has_size != 0 {
            number(&mut rest)?;
        }
    }
    for _ in 0..=flags & 3 {
        let filter = number(&mut rest)?;
        let length = usize::try_from(number(&mut rest)?).ok()?;
        let properties = take(&mut rest, length)?;
        if filter == LZMA2 {
            let code = *properties.first()?;
            let exponent = u32::from(code / 2) + 11;
            return (code <= 40).then(|| (2 | u64::from(code & 1)) << exponent);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(taken)
}

/// A number: seven bits in each byte, the lowest first, and a bit that says whether there are more.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for index in 0..NUMBER_LIMIT {
        let byte = take(rest, 1)?[0];
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_block_says_how_large_the_dictionary_is() {
        let file = |header: &[u8]| {
            let words = header.len().div_ceil(4) as u8;
            [&[0; START - 1], &[words][..], header, &[0; 8]].concat()
        };
        for (header, expected) in [
            (&[0x00, 0x21, 1, 22][..], 8 << 20),
            (&[0x00, 0x21, 1, 28], 64 << 20),
            (&[0x00, 0x21, 1, 1], 6 << 10),
            (&[0xc0, 0x81, 2, 0x82, 0x80, 1, 0x21, 1, 22], 8 << 20),
            (&[0x01, 3, 1, 7, 0x21, 1, 22], 8 << 20),
            (&[0x00, 0x21, 1, 40], 2 << 31),
            (&[0x00, 0x21, 1, 41], 0),
            (&[0x00, 3, 1, 7], 0),
            (
                &[
                    0x40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                ],
                0,
            ),
        ] {
            let file = file(header);
            assert!(length(&file[..START]) >= START + header.len());
            assert_eq!(dictionary(&file), expected, "{header:x?}");
        }
        for short in [&[][..], &[0; START], &[0; START + 1]] {
            assert_eq!(dictionary(short), 0);
        }
    }
}
