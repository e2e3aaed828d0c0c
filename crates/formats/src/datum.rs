//! Scheme data: the part of Guile's syntax that machine files, the lists of mirrors and the
//! variables of derivations use.
//!
//! Every datum has its position, so that error messages have line and column. The reader uses an
//! explicit stack instead of recursion, and rejects data that is nested deeper than [`MAX_DEPTH`].
//! It supports comments (`;`, `#|…|#`, `#;`) and both kinds of brackets, and rejects what nobody
//! needs here, such as vectors, and `#.`, which would evaluate what follows.

use std::fmt;

/// Lists nested deeper than this are rejected.
pub const MAX_DEPTH: usize = 64;

/// The position of a datum, counted from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// A datum and its position.
#[derive(Debug, Clone, PartialEq)]
pub struct Datum {
    /// Its position.
    pub position: Position,
    /// Its value.
    pub value: Value,
}

/// The value of a datum.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `"…"`
    String(String),
    /// Any real number that Scheme writes in decimal or as a fraction.
    Number(f64),
    /// `#t` or `#f`
    Bool(bool),
    /// A symbol, or a keyword such as `#:select`.
    Symbol(String),
    /// `(…)`; `'X` is read as `(quote X)`.
    List(Vec<Datum>),
}

impl Datum {
    /// The symbol's name, if it is one.
    pub fn symbol(&self) -> Option<&str> {
        match &self.value {
            Value::Symbol(name) => Some(name),
            _ => None,
        }
    }

    /// The text, if it is a string.
    pub fn string(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The elements, if it is a list.
    pub fn list(&self) -> Option<&[Datum]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }
}

impl fmt::Display for Datum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::String(s) => write!(f, "{s:?}"),
            Value::Number(n) => write!(f, "{n}"),
            Value::Bool(b) => f.write_str(if *b { "#t" } else { "#f" }),
            Value::Symbol(s) => f.write_str(s),
            Value::List(items) => {
                f.write_str("(")?;
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        f.write_str(" ")?;
                    }
                    write!(f, "{item}")?;
                }
                f.write_str(")")
            }
        }
    }
}

/// A syntax error.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}:{}: {message}", position.line, position.column)]
pub struct SyntaxError {
    /// The position.
    pub position: Position,
    /// The message.
    pub message: String,
}

/// All data of `text`, in order. They take up to 30 times the memory of the text, whose size it is
/// for the caller to limit.
///
/// ```
/// use formats::datum;
///
/// let data = datum::read_all("(\"https://a\" \"ftp://b\") ; two")?;
/// assert_eq!(data[0].list().unwrap()[1].string(), Some("ftp://b"));
/// # Ok::<(), datum::SyntaxError>(())
/// ```
pub fn read_all(text: &str) -> Result<Vec<Datum>, SyntaxError> {
    Reader::new(text).read_all()
}

/// What the next closing bracket, or the next datum, completes.
enum Frame {
    List {
        start: Position,
        close: char,
        items: Vec<Datum>,
    },
    Prefix {
        start: Position,
        name: &'static str,
    },
    Discard {
        start: Position,
    },
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    at: Position,
    stack: Vec<Frame>,
    done: Vec<Datum>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Reader {
            rest: text.chars().peekable(),
            at: Position { line: 1, column: 1 },
            stack: Vec::new(),
            done: Vec::new(),
        }
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.at.line += 1;
            self.at.column = 1;
        } else {
            self.at.column += 1;
        }
        Some(c)
    }

    fn error<T>(&self, position: Position, message: impl Into<String>) -> Result<T, SyntaxError> {
        Err(SyntaxError {
            position,
            message: message.into(),
        })
    }

    fn push(&mut self, frame: Frame) -> Result<(), SyntaxError> {
        if self.stack.len() >= MAX_DEPTH {
            return self.error(self.at, format!("nested more than {MAX_DEPTH} deep"));
        }
        self.stack.push(frame);
        Ok(())
    }

    /// Adds a complete datum to the enclosing list or prefix.
    fn complete(&mut self, mut datum: Datum) {
        loop {
            match self.stack.last_mut() {
                None => return self.done.push(datum),
                Some(Frame::List { items, .. }) => return items.push(datum),
                Some(Frame::Discard { .. }) => {
                    self.stack.pop();
                    return;
                }
                Some(Frame::Prefix { start, name }) => {
                    let start = *start;
                    let symbol = Datum {
                        position: start,
                        value: Value::Symbol((*name).into()),
                    };
                    self.stack.pop();
                    datum = Datum {
                        position: start,
                        value: Value::List(vec![symbol, datum]),
                    };
                }
            }
        }
    }

    fn read_all(mut self) -> Result<Vec<Datum>, SyntaxError> {
        loop {
            let start = self.at;
            let Some(c) = self.next() else { break };
            match c {
                c if c.is_whitespace() || c == '\u{feff}' => {}
                ';' => while self.next().is_some_and(|c| c != '\n') {},
                '(' => self.open(start, ')')?,
                '[' => self.open(start, ']')?,
                ')' | ']' => self.close(start, c)?,
                '\'' => self.push(Frame::Prefix {
                    start,
                    name: "quote",
                })?,
                '`' => self.push(Frame::Prefix {
                    start,
                    name: "quasiquote",
                })?,
                ',' if self.rest.next_if_eq(&'@').is_some() => {
                    self.at.column += 1;
                    self.push(Frame::Prefix {
                        start,
                        name: "unquote-splicing",
                    })?;
                }
                ',' => self.push(Frame::Prefix {
                    start,
                    name: "unquote",
                })?,
                '"' => {
                    let value = Value::String(self.string(start)?);
                    self.complete(Datum {
                        position: start,
                        value,
                    });
                }
                '#' if self.rest.peek() == Some(&'|') => self.block_comment(start)?,
                '#' if self.rest.peek() == Some(&'!') => self.block_bang(start)?,
                '#' if self.rest.peek() == Some(&';') => {
                    self.next();
                    self.push(Frame::Discard { start })?;
                }
                c => {
                    let value = self.atom(start, c)?;
                    self.complete(Datum {
                        position: start,
                        value,
                    });
                }
            }
        }
        match self.stack.last() {
            None => Ok(self.done),
            Some(Frame::List { start, .. }) => self.error(*start, "unmatched open parenthesis"),
            Some(Frame::Prefix { start, .. } | Frame::Discard { start }) => {
                self.error(*start, "unexpected end of file: nothing follows this")
            }
        }
    }

    fn open(&mut self, start: Position, close: char) -> Result<(), SyntaxError> {
        self.push(Frame::List {
            start,
            close,
            items: Vec::new(),
        })
    }

    fn close(&mut self, at: Position, bracket: char) -> Result<(), SyntaxError> {
        match self.stack.pop() {
            Some(Frame::List {
                start,
                close,
                items,
            }) if close == bracket => {
                self.complete(Datum {
                    position: start,
                    value: Value::List(items),
                });
                Ok(())
            }
            _ => self.error(at, format!("unexpected `{bracket}'")),
        }
    }

    fn string(&mut self, start: Position) -> Result<String, SyntaxError> {
        let mut text = String::new();
        loop {
            let at = self.at;
            match self.next() {
                None => return self.error(start, "unexpected end of file in string"),
                Some('"') => return Ok(text),
                Some('\\') => match self.next() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some('a') => text.push('\u{7}'),
                    Some('0') => text.push('\0'),
                    Some(c @ ('"' | '\\' | '|' | '/')) => text.push(c),
                    Some('\n') => {
                        while self.rest.peek().is_some_and(|c| *c == ' ' || *c == '\t') {
                            self.next();
                        }
                    }
                    Some('x') => text.push(self.hexadecimal(at)?),
                    Some(c) => return self.error(at, format!("unknown escape `\\{c}' in string")),
                    None => return self.error(start, "unexpected end of file in string"),
                },
                Some(c) => text.push(c),
            }
        }
    }

    /// `HH` or, as in R6RS, `H…;`.
    fn hexadecimal(&mut self, at: Position) -> Result<char, SyntaxError> {
        let mut code = 0u32;
        let mut digits = 0;
        while let Some(digit) = self.rest.peek().and_then(|c| c.to_digit(16)) {
            if digits == 6 {
                break;
            }
            code = code * 16 + digit;
            digits += 1;
            self.next();
        }
        if self.rest.peek() == Some(&';') {
            self.next();
        }
        match char::from_u32(code) {
            Some(c) if digits > 0 => Ok(c),
            _ => self.error(at, "bad character code in string"),
        }
    }

    fn block_comment(&mut self, start: Position) -> Result<(), SyntaxError> {
        let mut depth = 0usize;
        let mut previous = '#';
        loop {
            match (previous, self.next()) {
                (_, None) => return self.error(start, "unterminated `#|' comment"),
                ('#', Some('|')) => {
                    depth += 1;
                    previous = ' ';
                }
                ('|', Some('#')) => {
                    depth -= 1;
                    if depth == 0 {
                        return Ok(());
                    }
                    previous = ' ';
                }
                (_, Some(c)) => previous = c,
            }
        }
    }

    /// `#!…!#`. (Words such as `#!eof` are not needed here.)
    fn block_bang(&mut self, start: Position) -> Result<(), SyntaxError> {
        let mut previous = ' ';
        loop {
            match self.next() {
                None => return self.error(start, "unterminated `#!' comment"),
                Some('#') if previous == '!' => return Ok(()),
                Some(c) => previous = c,
            }
        }
    }

    fn atom(&mut self, start: Position, first: char) -> Result<Value, SyntaxError> {
        let mut word = String::from(first);
        while let Some(&c) = self.rest.peek() {
            if c.is_whitespace() || matches!(c, '(' | ')' | '[' | ']' | '"' | ';' | '\'') {
                break;
            }
            word.push(c);
            self.next();
        }
        if word == "#" && self.rest.peek() == Some(&'(') {
            return self.error(start, "a vector has no meaning here");
        }
        if word.starts_with("#.") {
            return self.error(start, "`#.' is not allowed");
        }
        Ok(match word.as_str() {
            "#t" | "#true" => Value::Bool(true),
            "#f" | "#false" => Value::Bool(false),
            _ => match number(&word) {
                Some(n) => Value::Number(n),
                None => Value::Symbol(word),
            },
        })
    }
}

fn number(word: &str) -> Option<f64> {
    let first = word
        .strip_prefix(['+', '-'])
        .unwrap_or(word)
        .chars()
        .next()?;
    if !(first.is_ascii_digit() || first == '.') {
        return None;
    }
    let value = match word.split_once('/') {
        Some((a, b)) => a.parse::<f64>().ok()? / b.parse::<f64>().ok()?,
        None => word.parse::<f64>().ok()?,
    };
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Vec<String> {
        read_all(text)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn reads_what_machine_files_hold() {
        let text = "(use-modules (guix)) ; c\n#| a #| nested |# |#\n'(1 2. 1/2 -3) #;(gone) [a \"b\\n\\x41;\\\n   c\"] #t #f";
        assert_eq!(
            shown(text),
            [
                "(use-modules (guix))",
                "(quote (1 2 0.5 -3))",
                "(a \"b\\nAc\")",
                "#t",
                "#f"
            ]
        );
    }

    #[test]
    fn a_datum_knows_its_line_and_column() {
        let data = read_all("(a\n  (b\t\"c\"))").unwrap();
        let inner = &data[0].list().unwrap()[1];
        assert_eq!(inner.position, Position { line: 2, column: 3 });
        assert_eq!(
            inner.list().unwrap()[1].position,
            Position { line: 2, column: 6 }
        );
    }

    #[test]
    fn errors_point_at_the_cause() {
        for (text, expected) in [
            ("(a\n (b", "2:2: unmatched open parenthesis"),
            ("(a))", "1:4: unexpected `)'"),
            ("(a]", "1:3: unexpected `]'"),
            ("(a \"b", "1:4: unexpected end of file in string"),
            ("a '", "1:3: unexpected end of file: nothing follows this"),
            ("#| #| |#", "1:1: unterminated `#|' comment"),
            ("(a #.(b))", "1:4: `#.' is not allowed"),
        ] {
            assert_eq!(read_all(text).unwrap_err().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "(".repeat(1_000_000);
        assert!(
            read_all(&deep)
                .unwrap_err()
                .message
                .contains("nested more than")
        );
        let quotes = "'".repeat(1_000_000);
        assert!(
            read_all(&quotes)
                .unwrap_err()
                .message
                .contains("nested more than")
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[()\\[\\]'`,@#|!;\"\\\\a-c0-9./ \n-]{0,80}") {
            let _ = read_all(&text);
        }
    }
}
