//! Choosing among what several servers say of an item, and among the files in which they offer it
//! (`doc/spec/substitutes.md`, sections 3 and 6).

use std::cmp::Reverse;
use std::sync::Arc;

use store::ExpectedItem;
use system::sync::Mutex;

use crate::compression::Compression;
use crate::narinfo::{Narinfo, Variant};
use crate::trust::Judge;

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
    /// What has to arrive. Its size is a bound only if the judge believes everybody: then nobody has
    /// signed it, and Guix goes by the hash.
    pub fn expected(&self, judge: &Judge) -> ExpectedItem {
        let believed = &self.believed;
        ExpectedItem {
            path: believed.path().clone(),
            hash: *believed.nar_hash(),
            nar_size: believed.nar_size(),
            may_be_smaller: judge.believes_everybody(),
            references: believed.references().clone(),
            deriver: believed.deriver().cloned(),
        }
    }

    /// The size of the file that is tried first; 0 if it is not known.
    pub fn download_size(&self, preference: Preference) -> u64 {
        let first = self.first(preference);
        first
            .and_then(|(_, variant)| variant.file_size)
            .unwrap_or(0)
    }

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
    /// The preference for the next item, when the last one waited for the network for this much of
    /// its time, in percent: whoever waits for the network wants small files, and whoever waits for
    /// anything else wants those that take little work.
    #[must_use]
    pub fn after(self, waited: u32) -> Preference {
        match waited {
            0..20 => Preference::Fast,
            81.. => Preference::Small,
            _ => self,
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

/// A smaller file, in bytes, says nothing about what it is worth to wait for.
const TELLING_SIZE: u64 = 256 << 10;

/// The preference of all who fetch over the same network. It follows what the last items have shown.
#[derive(Debug, Default)]
pub struct Learned(Mutex<Preference>);

impl Learned {
    /// The preference for the next item.
    pub fn preference(&self) -> Preference {
        *self.0.lock()
    }

    /// A file of so many bytes has arrived, and waited for the network for so much of its time, in
    /// percent.
    pub(crate) fn received(&self, bytes: u64, waited: u32) {
        if bytes >= TELLING_SIZE {
            let mut preference = self.0.lock();
            *preference = preference.after(waited);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::narinfo::Location;
    use crate::servers::Server;
    use formats::{Hash, StoreDir};
    use proptest::prelude::*;

    fn variant(compression: Compression, file_size: Option<u64>) -> Variant {
        Variant {
            location: Location::Url("http://example.org".into()),
            compression,
            file_size,
        }
    }

    #[test]
    fn variants_are_ordered() {
        use Compression::{Bzip2, Gzip, Lzip, None as Plain, Xz, Zstd};
        let order = |preference: Preference, variants: &[(Compression, Option<u64>)]| {
            let variants: Vec<_> = variants.iter().map(|&(c, size)| variant(c, size)).collect();
            let ordered = preference.order(&variants);
            ordered
                .iter()
                .map(|variant| variant.compression)
                .collect::<Vec<_>>()
        };
        let unsized_variants = Compression::ALL.map(|compression| (compression, None));
        assert_eq!(
            order(Preference::Fast, &unsized_variants),
            [Zstd, Plain, Gzip, Lzip, Xz, Bzip2]
        );
        assert_eq!(
            order(Preference::Small, &unsized_variants),
            [Lzip, Zstd, Xz, Bzip2, Gzip, Plain]
        );
        let sizes = [
            (Lzip, None),
            (Gzip, Some(7)),
            (Plain, Some(9)),
            (Zstd, Some(8)),
            (Xz, Some(7)),
        ];
        assert_eq!(
            order(Preference::Small, &sizes),
            [Gzip, Xz, Zstd, Plain, Lzip]
        );
        assert_eq!(Preference::default(), Preference::Fast);
    }

    #[test]
    fn whoever_waits_for_the_network_wants_small_files() {
        let learned = Learned::default();
        for (bytes, waited, expected) in [
            (1 << 30, 80, Preference::Fast),
            (1000, 100, Preference::Fast),
            (1 << 30, 81, Preference::Small),
            (1 << 30, 20, Preference::Small),
            (1000, 0, Preference::Small),
            (1 << 30, 19, Preference::Fast),
            (1 << 30, u32::MAX, Preference::Small),
        ] {
            learned.received(bytes, waited);
            assert_eq!(learned.preference(), expected, "{bytes}, {waited} %");
        }
    }

    /// What one server says of the same item: a number each for what can differ, and whether it
    /// is believed.
    type Claim = (u8, u8, u8, bool);

    fn narinfo(server: usize, (hash, size, reference, _): Claim) -> Arc<Narinfo> {
        let store = StoreDir::new("/gnu/store").unwrap();
        let path = store.join("0mgxsakkancy2iry6pj8hwcmlbmjbamn-x").unwrap();
        let server = Arc::new(Server::new(&format!("http://{server}")).unwrap());
        let text = format!(
            "StorePath: {path}\nNarHash: {}\nNarSize: {size}\nReferences: {}\nURL: x\nCompression: none\n",
            Hash::sha256([hash]),
            "lnqjid21cvqw4c4kh7xnj2ikp2d0qfnb-y ".repeat(reference.into()),
        );
        Arc::new(Narinfo::parse(text.as_bytes(), &path, &store, &server).unwrap())
    }

    proptest! {
        /// The rule, in other words: whatever is chosen has been vouched for by somebody who is
        /// believed, and everybody who says the same is a source, in the order of the servers.
        #[test]
        fn nothing_is_chosen_that_nobody_vouches_for(
            claims in proptest::collection::vec((0u8..2, 0u8..2, 0u8..2, any::<bool>()), 0..6),
        ) {
            let narinfos: Vec<_> = claims.iter().enumerate().map(|(n, claim)| narinfo(n, *claim)).collect();
            let number = |narinfo: &Narinfo| {
                narinfos.iter().position(|other| std::ptr::eq(&**other, narinfo)).unwrap()
            };
            let choice = choose(&narinfos, |narinfo| claims[number(narinfo)].3);
            let first = claims.iter().position(|claim| claim.3);
            let Some(choice) = choice else {
                prop_assert_eq!(first, None);
                return Ok(());
            };
            prop_assert_eq!(Some(number(&choice.believed)), first);
            let said = |n: usize| (claims[n].0, claims[n].1, claims[n].2);
            let same: Vec<_> = (0..claims.len()).filter(|&n| said(n) == said(first.unwrap())).collect();
            let sources: Vec<_> = choice.sources.iter().map(|narinfo| number(narinfo)).collect();
            prop_assert_eq!(&sources, &same);
            let (source, _) = choice.first(Preference::Fast).unwrap();
            prop_assert_eq!(number(source), same[0]);
            prop_assert_eq!(choice.variants(Preference::Small).len(), same.len());
        }
    }
}
