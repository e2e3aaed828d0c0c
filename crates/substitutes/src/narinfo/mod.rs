//! Narinfos: what a server says of one store item (`doc/spec/substitutes.md`, section 3).
//!
//! A [`Narinfo`] is always about the item that was asked for: [`Narinfo::parse`] takes that item and
//! refuses a text about another. Whether a narinfo is to be believed is another question, answered
//! by [`Judge`](crate::trust::Judge).
//!
//! Whoever stores a signed narinfo can add fields below its signature. So everything that will be
//! believed is taken from above the signature if there is one; only the list of files, which
//! is below it on purpose, is taken from the whole text.

mod fields;
#[cfg(test)]
mod tests;
mod variant;

use std::collections::BTreeSet;
use std::sync::Arc;

use data_encoding::BASE64;
use formats::printable::printable;
use formats::{Algorithm, Hash, StoreDir, StorePath};

use crate::compression::Compression;
use crate::servers::{Place, Server};

pub use variant::{Location, Variant};

use fields::Field;

/// The longest narinfo, in bytes.
pub const MAX_LENGTH: usize = 1 << 20;

/// How many files of a narinfo are looked at.
const MAX_VARIANTS: usize = 32;

/// What a server says of a store item.
#[derive(Clone, Debug)]
pub struct Narinfo {
    server: Arc<Server>,
    path: StorePath,
    nar_hash: Hash,
    nar_size: u64,
    references: BTreeSet<StorePath>,
    deriver: Option<StorePath>,
    variants: Vec<Variant>,
    signature: Option<Signature>,
}

/// The signature of a narinfo, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    text: Vec<u8>,
    signed: [u8; 32],
}

impl Signature {
    /// The signature: an s-expression.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The SHA-256 of what must have been signed: of everything above the signature.
    pub fn signed(&self) -> &[u8; 32] {
        &self.signed
    }
}

/// Why a text isn't a usable narinfo of the item that was asked for. The item then counts as absent
/// from the server. Text of the server is made safe to print.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A text that is too long.
    #[error("narinfo of more than {MAX_LENGTH} bytes")]
    TooLong,
    /// Invalid UTF-8, or a line that is neither a field nor a comment.
    #[error("malformed narinfo")]
    Malformed,
    /// A field that must be there isn't.
    #[error("narinfo without `{0}'")]
    Missing(&'static str),
    /// A field whose value can't be used.
    #[error("narinfo with invalid `{name}': {value}")]
    Invalid {
        /// The field.
        name: &'static str,
        /// Its value, cut if it is long.
        value: String,
    },
    /// A narinfo of an item that wasn't asked for.
    #[error("narinfo of another item: {0}")]
    OtherItem(String),
    /// No file that could be fetched, or none that could be decompressed.
    #[error("narinfo without a usable URL")]
    NoVariant,
}

impl Narinfo {
    /// Reads what `server` answered when it was asked for the item `wanted` of `store`.
    ///
    /// # Errors
    /// The text can't be used, or it is about another item.
    pub fn parse(
        text: &[u8],
        wanted: &StorePath,
        store: &StoreDir,
        server: &Arc<Server>,
    ) -> Result<Narinfo, Error> {
        if text.len() > MAX_LENGTH {
            return Err(Error::TooLong);
        }
        let text = std::str::from_utf8(text).map_err(|_| Error::Malformed)?;
        let fields = fields::parse(text).ok_or(Error::Malformed)?;
        let signature = Signed::find(text, &fields);
        let believed = match &signature {
            Some(signed) => &fields[..signed.fields],
            None => &fields[..],
        };
        let record = Record(believed);
        let path = record.required("StorePath")?;
        if path != wanted.as_str() || !wanted.is_well_formed() {
            return Err(Error::OtherItem(shown(path)));
        }
        let nar_hash = record.required("NarHash")?;
        let nar_size = record.required("NarSize")?;
        Ok(Narinfo {
            server: server.clone(),
            path: wanted.clone(),
            nar_hash: parse_hash(nar_hash).ok_or_else(|| invalid("NarHash", nar_hash))?,
            nar_size: parse_number(nar_size).ok_or_else(|| invalid("NarSize", nar_size))?,
            references: record
                .required("References")?
                .split_whitespace()
                .map(|name| item(store, name).ok_or_else(|| invalid("References", name)))
                .collect::<Result<_, _>>()?,
            deriver: match record.get("Deriver") {
                None | Some("") => None,
                Some(name) => Some(item(store, name).ok_or_else(|| invalid("Deriver", name))?),
            },
            variants: variants(&Record(&fields), server)?,
            signature: signature.map(|signed| signed.signature),
        })
    }

    /// The server that it came from.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// The item.
    pub fn path(&self) -> &StorePath {
        &self.path
    }

    /// The hash of the item's nar.
    pub fn nar_hash(&self) -> &Hash {
        &self.nar_hash
    }

    /// The size of the item's nar, in bytes.
    pub fn nar_size(&self) -> u64 {
        self.nar_size
    }

    /// The items that it refers to; itself may be among them.
    pub fn references(&self) -> &BTreeSet<StorePath> {
        &self.references
    }

    /// The derivation that it was built from, if the server says.
    pub fn deriver(&self) -> Option<&StorePath> {
        self.deriver.as_ref()
    }

    /// The files that hold its nar, in the server's order: at least one.
    pub fn variants(&self) -> &[Variant] {
        &self.variants
    }

    /// The signature, not yet verified; `None` if there is none that could count.
    pub fn signature(&self) -> Option<&Signature> {
        self.signature.as_ref()
    }

    /// Whether both say the same of the same item: whoever believes one believes the other.
    pub fn is_equivalent(&self, other: &Narinfo) -> bool {
        self.path == other.path
            && self.nar_hash == other.nar_hash
            && self.nar_size == other.nar_size
            && self.references == other.references
    }

    /// The URL of one of its files, for messages.
    pub fn url_of(&self, variant: &Variant) -> String {
        match (&variant.location, self.server.place()) {
            (Location::Url(url), _) => url.clone(),
            (Location::File(name), Place::Directory(directory)) => {
                format!("file://{}", directory.join(name).display())
            }
            (Location::File(name), Place::Network) => name.display().to_string(),
        }
    }
}

/// A signature that could count, and how many fields are above it.
struct Signed {
    signature: Signature,
    fields: usize,
}

impl Signed {
    /// Guix signs what is above the first `Signature:`, wherever that is. It counts only at the
    /// beginning of a line that is the field, so that what is signed is whole fields; and only below
    /// the fields that matter most.
    fn find(text: &str, fields: &[Field]) -> Option<Signed> {
        let offset = text.find("Signature:")?;
        let above = fields.iter().position(|field| field.offset == offset)?;
        let signed = |name| fields[..above].iter().any(|field| field.name == name);
        if !["StorePath", "NarHash", "References"]
            .into_iter()
            .all(signed)
        {
            return None;
        }
        let mut parts = fields[above].value.split(';');
        let (version, _host, encoded) = (parts.next()?, parts.next()?, parts.next()?);
        if version != "1" || parts.next().is_some() {
            return None;
        }
        let signature = Signature {
            text: BASE64.decode(encoded.as_bytes()).ok()?,
            signed: digest(&text.as_bytes()[..offset]),
        };
        Some(Signed {
            signature,
            fields: above,
        })
    }
}

/// Fields, of which the first with a name counts.
struct Record<'a>(&'a [Field<'a>]);

impl Record<'_> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |field| field.name == name);
        named.map(|field| &*field.value)
    }

    fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    fn required(&self, name: &'static str) -> Result<&str, Error> {
        self.get(name).ok_or(Error::Missing(name))
    }
}

/// The files that can be fetched and decompressed.
fn variants(record: &Record, server: &Server) -> Result<Vec<Variant>, Error> {
    // The values of these fields belong together by their position. Sizes are optional; if they are
    // there for some files only, nothing tells for which.
    let complete = record.all("FileSize").count() == record.all("URL").count();
    let mut sizes = record.all("FileSize").filter(|_| complete).map(parse_size);
    let variants: Vec<Variant> = record
        .all("URL")
        .zip(record.all("Compression"))
        .take(MAX_VARIANTS)
        .filter_map(|(url, compression)| {
            let file_size = sizes.next().flatten();
            Some(Variant {
                location: Location::resolve(url, server)?,
                compression: compression.parse::<Compression>().ok()?,
                file_size,
            })
        })
        .collect();
    if variants.is_empty() {
        return Err(Error::NoVariant);
    }
    Ok(variants)
}

/// An item by its name in the store, with the form of computed names.
fn item(store: &StoreDir, name: &str) -> Option<StorePath> {
    store.join(name).ok().filter(StorePath::is_well_formed)
}

/// A hash by an algorithm that nobody can find collisions of.
fn parse_hash(text: &str) -> Option<Hash> {
    let hash = Hash::parse_prefixed(text).ok()?;
    (!matches!(hash.algorithm(), Algorithm::Md5 | Algorithm::Sha1)).then_some(hash)
}

/// A number of bytes that the database can hold.
fn parse_size(text: &str) -> Option<u64> {
    let size = parse_number(text)?;
    i64::try_from(size).is_ok().then_some(size)
}

/// A number of 64 bits. Guix's client takes all of them as the size of a nar.
fn parse_number(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

fn digest(data: &[u8]) -> [u8; 32] {
    // Folding 32 bytes to 32 leaves them as they are.
    Hash::sha256(data).compress()
}

fn invalid(name: &'static str, value: &str) -> Error {
    Error::Invalid {
        name,
        value: shown(value),
    }
}

fn shown(value: &str) -> String {
    printable(&value.chars().take(200).collect::<String>()).into_owned()
}
