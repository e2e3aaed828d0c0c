//! Choosing among what several servers say of an item, and among the files in which they offer it
//! (`doc/spec/substitutes.md`, sections 3 and 6).

use std::cmp::Reverse;
use std::sync::Arc;

use crate::compression::Compression;
use crate::narinfo::{Narinfo, Variant};

/// What is believed of an item, and who can deliver it.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The narinfo that is believed: everything that is registered comes from it.
    pub believed: Arc<Narinfo>,
    /// The narinfos that say the same, the first to be fetched from first. At least one; signed or
    /// not: the hash tells whether the right contents were delivered.
    pub sources: Vec<Arc<Narinfo>>,
}

/// Chooses among `narinfos` of one item, in the order of the servers that they come from. The first
/// for which `is_believed` holds is believed, and all that are equivalent to it are sources. `None`
/// if none is believed.
pub fn choose(
    narinfos: &[Arc<Narinfo>],
    mut is_believed: impl FnMut(&Narinfo) -> bool,
) -> Option<Choice> {
    let believed = narinfos.iter().find(|narinfo| is_believed(narinfo))?;
    let equivalent = |narinfo: &&Arc<Narinfo>| narinfo.is_equivalent(believed);
    let sources = narinfos.iter().filter(equivalent).cloned().collect();
    Some(Choice {
        believed: believed.clone(),
        sources,
    })
}

impl Choice {
    /// Every file that holds the item's nar, in the order in which to try them: server by server.
    pub fn variants(&self, preference: Preference) -> Vec<(&Arc<Narinfo>, &Variant)> {
        let mut variants = Vec::new();
        for narinfo in &self.sources {
            let ordered = preference.order(narinfo.variants());
            variants.extend(ordered.into_iter().map(|variant| (narinfo, variant)));
        }
        variants
    }

    /// The file that is tried first.
    pub fn first(&self, preference: Preference) -> Option<(&Arc<Narinfo>, &Variant)> {
        let narinfo = self.sources.first()?;
        let variant = preference.order(narinfo.variants()).into_iter().next()?;
        Some((narinfo, variant))
    }
}

/// Which files are fetched first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// Those that are decompressed with the least work.
    #[default]
    Fast,
    /// The smallest.
    Small,
}

impl Preference {
    /// The preference for the next item, when `cpu_share` of the time that the last one took was
    /// spent computing: whoever waits for the network wants small files, and whoever waits for the
    /// processor wants those that take little work.
    #[must_use]
    pub fn after(self, cpu_share: f64) -> Preference {
        if cpu_share > 0.8 {
            Preference::Fast
        } else if cpu_share < 0.2 {
            Preference::Small
        } else {
            self
        }
    }

    /// `variants`, the first to be tried first; in the server's order where it makes no difference.
    pub fn order(self, variants: &[Variant]) -> Vec<&Variant> {
        let mut ordered: Vec<&Variant> = variants.iter().collect();
        match self {
            Preference::Fast => ordered.sort_by_key(|variant| Reverse(speed(variant.compression))),
            Preference::Small => ordered.sort_by_key(|variant| match variant.file_size {
                Some(size) => (0, size),
                None => (1, bulk(variant.compression)),
            }),
        }
        ordered
    }
}

/// Ranks decompression by its speed.
fn speed(compression: Compression) -> u8 {
    match compression {
        Compression::Zstd => 4,
        Compression::None => 3,
        Compression::Gzip => 2,
        Compression::Lzip => 1,
        Compression::Xz | Compression::Bzip2 => 0,
    }
}

/// Ranks compressed files by the size to expect.
fn bulk(compression: Compression) -> u64 {
    match compression {
        Compression::Lzip => 0,
        Compression::Xz | Compression::Zstd | Compression::Bzip2 => 1,
        Compression::Gzip => 2,
        Compression::None => 3,
    }
}
