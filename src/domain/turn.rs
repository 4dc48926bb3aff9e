//! Whose turn a file is, where several archivers take in the same files: each works it out for itself, from who the others
//! are. Nothing depends on it but how often two ask for one file.

use super::OwnerId;

/// What a file is known by to all of them, wherever each has mounted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lot(u64);

impl Lot {
    pub fn of(source: &str, path: &[u8]) -> Self {
        Self(fnv(source.as_bytes().iter().chain(&[0]).chain(path)))
    }

    /// How many of the others come before `me`: rendezvous hashing, so that who joins takes an equal part of each one's
    /// files, and the files of who leaves go to all the others.
    pub fn before(self, me: OwnerId, owners: &[OwnerId]) -> usize {
        let mine = (self.weight(me), me.0);
        owners.iter().filter(|owner| (self.weight(**owner), owner.0) > mine).count()
    }

    fn weight(self, owner: OwnerId) -> u64 {
        mix(mix(self.0 ^ owner.0 as u64) ^ (owner.0 >> 64) as u64)
    }
}

/// FNV-1a of 64 bits (RFC 9923), for it is the same in every program.
fn fnv<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The finalizer of SplitMix64: each bit of the input changes half of the output's.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lots() -> impl Iterator<Item = Lot> {
        (0..20_000).map(|number| Lot::of("reports", format!("d{}/{number}.csv", number % 7).as_bytes()))
    }

    fn owners(count: u128) -> Vec<OwnerId> {
        (1..=count).map(|number| OwnerId((number << 64) | (number * 0x9e37_79b9))).collect()
    }

    fn first(lot: Lot, owners: &[OwnerId]) -> OwnerId {
        *owners.iter().find(|owner| lot.before(**owner, owners) == 0).unwrap()
    }

    #[test]
    fn each_has_an_equal_part_and_every_place_once() {
        let owners = owners(4);
        let mut first_of = [0_u32; 4];
        for lot in lots() {
            let mut places: Vec<_> = owners.iter().map(|owner| lot.before(*owner, &owners)).collect();
            first_of[places.iter().position(|place| *place == 0).unwrap()] += 1;
            places.sort_unstable();
            assert_eq!(places, [0, 1, 2, 3]);
        }
        assert!(first_of.iter().all(|count| (4_600..5_400).contains(count)), "{first_of:?}");
    }

    #[test]
    fn who_joins_takes_from_each_and_moves_nothing_else() {
        let (all, before) = (owners(4), owners(3));
        for lot in lots() {
            let now = first(lot, &all);
            assert!(now == all[3] || now == first(lot, &before));
        }
    }

    #[test]
    fn alone_everything_is_ones_own() {
        assert!(lots().all(|lot| lot.before(OwnerId(7), &[OwnerId(7)]) == 0 && lot.before(OwnerId(7), &[]) == 0));
    }

    #[test]
    fn all_versions_of_the_program_agree() {
        // As the RFC has it.
        assert_eq!(fnv(b"foobar".iter()), 0x8594_4171_f739_67e8);
        // The first number of SplitMix64 with the seed 0.
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
    }
}
