//! Merging: of all values typed in for a key, the strongest ([`Rank`]) holds. A source's own value goes before the
//! general one of the same rank; a general one of a higher rank goes before both. So `--after keep` on a command line
//! holds for every source, whatever the file says in any of them.

use super::key::{Key, Scope};
use super::keys::KEYS;
use super::layer::{Entry, Layer, Origin, Values};
use super::mistake::Mistake;

/// All layers, strongest first; each knows its rank by the origins of its values.
#[derive(Debug)]
pub(super) struct Layers {
    pub flags: Layer,
    pub environment: Layer,
    pub file: Layer,
    pub defaults: Layer,
}

/// What holds: one value a key at most, each with its origin.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Merged {
    pub values: Values,
    /// For each configured source all of its keys, its own and the inherited.
    pub sources: Vec<Values>,
}

impl Merged {
    /// The keys that have another value in the other one, wherever it comes from; `source` where any source has.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let same = |one: Option<&Entry>, other: Option<&Entry>| match (one, other) {
            // What relative paths are relative to is a part of the value.
            (Some(one), Some(other)) => one.value == other.value && one.origin.directory() == other.origin.directory(),
            (one, other) => one.is_none() && other.is_none(),
        };
        let same_in = |one: &Values, other: &Values, key: &Key| same(one.get(key.name), other.get(key.name));
        let keys = KEYS.iter().filter(|key| !same_in(&self.values, &other.values, key)).map(|key| key.name);
        let mut sources = self.sources.iter().zip(&other.sources);
        let are_same = self.sources.len() == other.sources.len()
            && sources.all(|(one, other)| KEYS.iter().all(|key| same_in(one, other, key)));
        keys.chain((!are_same).then_some("source")).collect()
    }
}

impl Layers {
    fn all(&self) -> [&Layer; 4] {
        [&self.flags, &self.environment, &self.file, &self.defaults]
    }

    /// Every value that was typed in, those that do not hold included.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, &Entry)> {
        self.all().into_iter().flat_map(|layer| {
            let sources = layer.sources.iter().flatten().chain(layer.patches.values());
            std::iter::once(&layer.values).chain(sources).flatten().map(|(name, entry)| (*name, entry))
        })
    }

    fn strongest<'a>(&'a self, own: impl IntoIterator<Item = &'a Values>, key: &Key) -> Option<&'a Entry> {
        let own = own.into_iter().filter_map(|values| values.get(key.name));
        let general = self.all().into_iter().filter_map(|layer| layer.values.get(key.name));
        // The first of equals, so own values go before general ones.
        own.chain(general).min_by_key(|entry| entry.origin.rank())
    }

    pub fn merge(&self, mistakes: &mut Vec<Mistake>) -> Merged {
        let once = KEYS.iter().filter(|key| key.scope() != Scope::Source);
        let values = once.filter_map(|key| Some((key.name, self.strongest([], key)?.clone()))).collect();
        let lists = self.sources(mistakes);
        let inherited = |own: &Vec<&Values>| {
            let keys = KEYS.iter().filter(|key| key.scope() != Scope::Once);
            keys.filter_map(|key| Some((key.name, self.strongest(own.iter().copied(), key)?.clone()))).collect()
        };
        Merged { values, sources: lists.iter().map(inherited).collect() }
    }

    /// The list of the strongest layer that has one, each source with the values that the environment sets for it
    /// by number. Those do not reach into a list of flags, which is stronger.
    fn sources(&self, mistakes: &mut Vec<Mistake>) -> Vec<Vec<&Values>> {
        let list = self.all().into_iter().find_map(|layer| layer.sources.as_ref());
        let mut sources: Vec<Vec<&Values>> = list.into_iter().flatten().map(|values| vec![values]).collect();
        if self.flags.sources.is_some() {
            return sources;
        }
        for (index, patch) in &self.environment.patches {
            let next = sources.len();
            match sources.get_mut(*index) {
                Some(own) => own.insert(0, patch),
                None if *index == next => sources.push(vec![patch]),
                None => {
                    if let Some(Entry { origin: origin @ Origin::Variable(_), .. }) = patch.values().next() {
                        let message =
                            format!("there is no source {}; sources are numbered from 0 without gaps", index - 1);
                        mistakes.push(Mistake::at(origin.clone(), message));
                    }
                }
            }
        }
        sources
    }
}
