//! Files that consist of several members, each of them compressed on its own: they are decompressed one
//! after the other, and never by recursion.

use std::io::{self, Read};

/// How many members in a row may be empty: whoever writes more wants to keep a decoder busy.
const EMPTY_LIMIT: u32 = 1000;

/// A decoder of one member, which leaves the bytes after it unread.
pub trait Member: Read {
    /// Where its bytes come from.
    type Input;

    /// Checks its end, and returns what follows it.
    fn finish(self) -> io::Result<Self::Input>;
}

/// Counts members that are empty.
#[derive(Default)]
pub struct Empty {
    in_a_row: u32,
}

impl Empty {
    /// A member gave something.
    pub fn reset(&mut self) {
        self.in_a_row = 0;
    }

    /// A member has ended; an error if too many have given nothing.
    pub fn add(&mut self) -> io::Result<()> {
        self.in_a_row += 1;
        match self.in_a_row > EMPTY_LIMIT {
            true => Err(io::Error::other("too many of its parts are empty")),
            false => Ok(()),
        }
    }
}

/// Reads on until there are so many bytes, or the input ends.
pub fn read_up_to(length: usize, bytes: &mut Vec<u8>, input: impl Read) -> io::Result<()> {
    let missing = length.saturating_sub(bytes.len());
    input.take(missing as u64).read_to_end(bytes)?;
    Ok(())
}

/// The decompressed contents of members.
pub struct Members<M: Member, B> {
    /// Begins with a member, if there is one.
    begin: B,
    state: State<M>,
    empty: Empty,
}

enum State<M: Member> {
    Between(M::Input),
    Within(Box<M>),
    Ended,
}

impl<M, B> Members<M, B>
where
    M: Member,
    B: FnMut(M::Input) -> io::Result<Option<M>>,
{
    /// The contents of `input`. `begin` makes the decoder of a member, and says when there is none.
    pub fn new(input: M::Input, begin: B) -> Members<M, B> {
        Members {
            begin,
            state: State::Between(input),
            empty: Empty::default(),
        }
    }
}

impl<M, B> Read for Members<M, B>
where
    M: Member,
    B: FnMut(M::Input) -> io::Result<Option<M>>,
{
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            // An error is the end.
            self.state = match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Ok(0),
                State::Between(input) => match (self.begin)(input)? {
                    Some(member) => State::Within(Box::new(member)),
                    None => return Ok(0),
                },
                State::Within(mut member) => match member.read(buffer)? {
                    0 => {
                        self.empty.add()?;
                        State::Between(member.finish()?)
                    }
                    count => {
                        self.empty.reset();
                        self.state = State::Within(member);
                        return Ok(count);
                    }
                },
            };
        }
    }
}
