//! The fields of a narinfo: one record in the recutils form (`doc/spec/substitutes.md`, section 3).

/// A field, and where its value is in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) name: &'a str,
    /// The value, with a line feed in front of each continuation.
    pub(super) value: std::borrow::Cow<'a, str>,
    /// The offset of the line in the text.
    pub(super) offset: usize,
}

/// The fields of the first record in `text`; `None` if there is a line that can't be in a record.
pub(super) fn parse(text: &str) -> Option<Vec<Field<'_>>> {
    let mut fields: Vec<Field> = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let start = offset;
        offset += line.len();
        let line = line.strip_suffix('\n').unwrap_or(line);
        match line.chars().next() {
            // A blank line ends the record, unless it is before it.
            None if fields.is_empty() => {}
            None => break,
            Some('#') => {}
            Some('+') => {
                let more = line[1..].strip_prefix(' ').unwrap_or(&line[1..]);
                let value = fields.last_mut()?.value.to_mut();
                value.push('\n');
                value.push_str(more);
            }
            Some(first) if first.is_alphabetic() || first == '%' => {
                let (name, value) = line.split_once(':')?;
                fields.push(Field {
                    name,
                    value: value.trim_start().into(),
                    offset: start,
                });
            }
            Some(_) => return None,
        }
    }
    Some(fields)
}
