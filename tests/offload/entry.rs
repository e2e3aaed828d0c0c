//! Entries of machine files, in the three forms.

/// The fields of one machine, with values as TOML has them.
#[derive(Debug, Clone, Default)]
pub struct Entry(Vec<(String, String)>);

impl Entry {
    /// Sets a field to a value as it stands in the file.
    pub fn plain(mut self, name: &str, value: &str) -> Entry {
        self.0.retain(|(other, _)| other != name);
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a field to a string.
    pub fn text(self, name: &str, value: &str) -> Entry {
        self.plain(name, &format!("\"{value}\""))
    }

    /// Sets a field to a list of strings.
    pub fn list(self, name: &str, values: &[&str]) -> Entry {
        self.plain(name, &format!("{values:?}"))
    }

    /// The value of a string.
    pub fn get(&self, name: &str) -> &str {
        let field = self.0.iter().find(|(other, _)| other == name);
        field.map_or("", |(_, value)| value.trim_matches('"'))
    }

    /// For `machines.toml`.
    pub fn toml(&self) -> String {
        let fields = self
            .0
            .iter()
            .map(|(name, value)| format!("{name} = {value}\n"));
        format!("[[machine]]\n{}\n", fields.collect::<String>())
    }

    /// For `machines.scm`.
    pub fn scheme(&self) -> String {
        let fields = self.0.iter().map(|(name, value)| {
            let value = match value.as_str() {
                "false" => "#f".to_owned(),
                list if list.starts_with('[') => {
                    format!("(list {})", list.trim_matches(['[', ']']).replace(',', ""))
                }
                other => other.to_owned(),
            };
            format!("\n  ({name} {value})")
        });
        format!("(build-machine{})", fields.collect::<String>())
    }
}
