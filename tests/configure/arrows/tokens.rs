//! Just enough of Rust to find paths and items: tokens, attributes, and where an item ends.

/// Words that an item may begin with.
const ITEMS: [&str; 14] = [
    "async",
    "const",
    "enum",
    "extern",
    "fn",
    "impl",
    "macro_rules",
    "mod",
    "pub",
    "static",
    "struct",
    "trait",
    "type",
    "unsafe",
];

/// One token of Rust, without comments: a name, `::`, a string with its first quote, or a character.
pub struct Token {
    pub text: String,
    pub line: usize,
}

/// The text of the token `i`, or nothing after the last one.
pub fn text(tokens: &[Token], i: usize) -> &str {
    tokens.get(i).map_or("", |token| token.text.as_str())
}

/// The tokens of a file, without comments and characters.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let (mut i, mut line, mut found) = (0, 1, Vec::new());
    while i < chars.len() {
        let start = i;
        let first_line = line;
        match at(i) {
            '/' if at(i + 1) == '/' => i += chars[i..].iter().take_while(|c| **c != '\n').count(),
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                while i < chars.len() {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            c if c.is_alphanumeric() || c == '_' => {
                while at(i).is_alphanumeric() || at(i) == '_' {
                    i += 1;
                }
                let name: String = chars[start..i].iter().collect();
                let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
                if matches!(name.as_str(), "r" | "br" | "cr") && at(i + hashes) == '"' {
                    let end: String = format!("\"{}", "#".repeat(hashes));
                    let rest: String = chars[i + hashes + 1..].iter().collect();
                    let length = rest.find(&end).map_or(rest.len(), |n| n + end.len());
                    i += hashes + 1 + rest[..length].chars().count();
                } else if name != "r" || hashes == 0 {
                    found.push(Token { text: name, line });
                }
            }
            '"' => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                let text = chars[start..i.min(chars.len())].iter().collect();
                found.push(Token { text, line });
                i += 1;
            }
            // A character; a lifetime is a quote and a name.
            '\'' if at(i + 1) == '\\' => {
                i += 3;
                i += chars[i.min(chars.len())..]
                    .iter()
                    .take_while(|c| **c != '\'')
                    .count()
                    + 1;
            }
            '\'' if at(i + 2) == '\'' => i += 3,
            ':' if at(i + 1) == ':' => {
                i += 2;
                found.push(Token {
                    text: "::".to_owned(),
                    line,
                });
            }
            c => {
                i += 1;
                if !c.is_whitespace() {
                    found.push(Token {
                        text: c.to_string(),
                        line,
                    });
                }
            }
        }
        i = i.min(chars.len());
        line = first_line + chars[start..i].iter().filter(|c| **c == '\n').count();
    }
    found
}

/// Whether a token is a name or a keyword.
pub fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// What an attribute says.
pub struct Attribute {
    /// The token after it.
    pub end: usize,
    /// What follows is compiled for tests only.
    pub test_only: bool,
    /// The file that `path` names.
    pub path: Option<String>,
}

/// The attribute that begins with the `#` at `i`.
pub fn attribute(tokens: &[Token], i: usize) -> Attribute {
    let inner = text(tokens, i + 1) == "!";
    let start = if inner { i + 2 } else { i + 1 };
    let (mut end, mut depth) = (start, 0);
    while end < tokens.len() {
        match text(tokens, end) {
            "[" => depth += 1,
            "]" => depth -= 1,
            _ => {}
        }
        end += 1;
        if depth == 0 {
            break;
        }
    }
    let words: Vec<&str> = (start..end).map(|i| text(tokens, i)).collect();
    let is = |name| words.get(1) == Some(&name);
    Attribute {
        end,
        test_only: is("cfg") && words.contains(&"test") && !words.contains(&"not") && !inner,
        path: is("path").then(|| words.get(3).unwrap_or(&"").trim_matches('"').to_owned()),
    }
}

/// The end of the item, field or statement at `i`, with its attributes.
pub fn skip_item(tokens: &[Token], mut i: usize) -> usize {
    while text(tokens, i) == "#" {
        i = attribute(tokens, i).end;
    }
    let item = ITEMS.contains(&text(tokens, i));
    let is_use = (i..tokens.len())
        .map(|i| text(tokens, i))
        .find(|word| !matches!(*word, "pub" | "(" | ")" | "crate" | "super" | "in" | "::"))
        .is_some_and(|word| word == "use");
    let mut depth = 0;
    while i < tokens.len() {
        match text(tokens, i) {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return i,
            ")" | "]" => depth -= 1,
            "}" => {
                depth -= 1;
                if depth == 0 && !is_use {
                    return i + 1;
                }
            }
            ";" if depth == 0 => return i + 1,
            "," if depth == 0 && !item && !is_use => return i + 1,
            _ => {}
        }
        i += 1;
    }
    i
}
