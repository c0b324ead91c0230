//! A query batch that is less alike than the best of its shortlist: no seed image too often, pairs of classes in turn.
//!
//! Source: the round-robin over buckets of Cluster-Margin (Citovsky et al., arXiv 2107.14263, section 3), where the buckets are
//! pairs of classes instead of clusters.
//!
//! A batch is a function of the shortlist's order alone, and the shortlist is exact, so the batch is as exact and as
//! independent of workers as one without diversity.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::pool::{PairId, Pool};

/// What keeps a batch from being of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Diversity {
    /// A seed image is in at most so many times as many mixes of a batch as it would be on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_image: Option<f64>,
    /// Whether pairs of classes take turns. The class of a seed image is the teacher's.
    pub class_pairs: bool,
    /// The best so many times as many as are wanted are chosen from, where there is no sample of the pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shortlist: Option<u32>,
}

/// What the shortlist is where a job does not say.
const SHORTLIST: u32 = 4;

impl Diversity {
    /// Candidates to choose the best `wanted` from: of a `sample` all.
    #[must_use]
    pub fn shortlist_of(&self, wanted: u64, sample: Option<u64>) -> u64 {
        let times = u64::from(self.shortlist.unwrap_or(SHORTLIST));
        sample.unwrap_or_else(|| wanted.saturating_mul(times))
    }

    /// Most mixes of a batch of `wanted` from `seeds` images that one image is in.
    #[must_use]
    pub fn most(&self, wanted: usize, seeds: u32) -> usize {
        let average = 2.0 * wanted as f64 / f64::from(seeds.max(1));
        let most = self.per_image.map(|times| (times * average).ceil().max(1.0));
        most.map_or(usize::MAX, |most| most as usize)
    }

    /// Positions in `shortlist`, which has the most wanted first, of the `wanted` that make the batch, ascending.
    /// Where the cap would leave the batch short, the best that it kept out fill it.
    ///
    /// `classes` has the class of each seed image, where pairs of classes take turns; images without one are of a
    /// class of their own, as are generated images.
    #[must_use]
    pub fn choose(&self, shortlist: &[PairId], wanted: usize, pool: Pool, classes: &[u32]) -> Vec<usize> {
        let order = match self.class_pairs {
            true => in_turn(shortlist, pool, classes),
            false => (0..shortlist.len()).collect(),
        };
        let most = self.most(wanted, pool.seeds());
        let mut uses: HashMap<u32, usize> = HashMap::new();
        let (mut chosen, mut kept_out) = (Vec::with_capacity(wanted), Vec::new());
        for at in order {
            if chosen.len() == wanted {
                break;
            }
            // A generated image is made of no seed image.
            let images = pool.unrank(shortlist[at]).map_or(Vec::new(), |(a, b)| vec![a, b]);
            let used = |image: &u32| uses.get(image).copied().unwrap_or(0);
            if images.iter().any(|image| used(image) >= most) {
                kept_out.push(at);
                continue;
            }
            images
                .into_iter()
                .for_each(|image| *uses.entry(image).or_default() += 1);
            chosen.push(at);
        }
        kept_out.sort_unstable();
        let short = wanted.saturating_sub(chosen.len());
        chosen.extend(kept_out.into_iter().take(short));
        chosen.sort_unstable();
        chosen
    }
}

/// Positions in `shortlist` so that buckets take turns: the best of each, then the second best of each. Of one turn,
/// the best first.
fn in_turn(shortlist: &[PairId], pool: Pool, classes: &[u32]) -> Vec<usize> {
    let class = |image: u32| classes.get(image as usize).copied().unwrap_or(u32::MAX);
    let bucket = |pair: PairId| {
        let classes = pool.unrank(pair).map(|(a, b)| (class(a), class(b)));
        classes.map(|(a, b)| (a.min(b), a.max(b)))
    };
    let mut sizes: BTreeMap<Option<(u32, u32)>, usize> = BTreeMap::new();
    let mut turns: Vec<(usize, usize)> = Vec::with_capacity(shortlist.len());
    for (at, pair) in shortlist.iter().enumerate() {
        let size = sizes.entry(bucket(*pair)).or_default();
        turns.push((*size, at));
        *size += 1;
    }
    turns.sort_unstable();
    turns.into_iter().map(|(_, at)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pairing;
    use proptest::prelude::*;

    const SEEDS: u32 = 12;

    fn pool() -> Pool {
        Pool::new(SEEDS, Pairing::All).with_generated(3)
    }

    fn pair(a: u32, b: u32) -> PairId {
        pool().rank(a, b).expect("a pair")
    }

    #[test]
    fn an_image_is_in_no_more_mixes_than_its_share() {
        // Image 0 is in all of the best.
        let shortlist: Vec<PairId> = (1..SEEDS)
            .map(|b| pair(0, b))
            .chain((1..5).map(|a| pair(a, a + 5)))
            .collect();
        let capped = Diversity {
            per_image: Some(2.0),
            ..Diversity::default()
        };
        assert_eq!(capped.most(6, SEEDS), 2);
        let chosen = capped.choose(&shortlist, 6, pool(), &[]);
        assert_eq!(chosen, [0, 1, 11, 12, 13, 14], "image 0 twice, then those without it");
        let chosen = capped.choose(&shortlist, 8, pool(), &[]);
        assert_eq!(capped.most(8, SEEDS), 3);
        assert_eq!(
            chosen,
            [0, 1, 2, 3, 11, 12, 13, 14],
            "the best that was kept out fills the batch"
        );
    }

    #[test]
    fn pairs_of_classes_take_turns_and_generated_images_are_one_of_them() {
        let classes: Vec<u32> = (0..SEEDS).map(|image| image % 2).collect();
        let generated = pool().generated_ids().next().expect("three");
        let shortlist = [
            pair(0, 2),
            pair(0, 4),
            pair(0, 6),
            pair(1, 3),
            generated,
            pair(2, 4),
            pair(0, 1),
            pair(1, 5),
        ];
        let in_turn = Diversity {
            class_pairs: true,
            ..Diversity::default()
        };
        // Both even, both odd, generated, one of each; then the second of the first two.
        assert_eq!(in_turn.choose(&shortlist, 4, pool(), &classes), [0, 3, 4, 6]);
        assert_eq!(in_turn.choose(&shortlist, 5, pool(), &classes), [0, 1, 3, 4, 6]);
        assert_eq!(
            in_turn.choose(&shortlist, 9, pool(), &classes).len(),
            8,
            "no more than there are"
        );
    }

    #[test]
    fn the_shortlist_is_the_sample_or_a_multiple() {
        let diversity = Diversity::default();
        assert_eq!(diversity.shortlist_of(100, Some(40_000)), 40_000);
        assert_eq!(diversity.shortlist_of(100, None), 400);
        let longer = Diversity {
            shortlist: Some(10),
            ..diversity
        };
        assert_eq!(longer.shortlist_of(100, None), 1_000);
    }

    proptest! {
        #[test]
        fn a_batch_is_full_without_repeats_and_without_a_rule_it_is_the_best(
            ids in prop::collection::hash_set(0_u64..69, 1..60),
            wanted in 1_usize..40,
            times in prop::option::of(1.0_f64..4.0),
            class_pairs: bool,
        ) {
            let shortlist: Vec<PairId> = ids.into_iter().map(PairId).collect();
            let classes: Vec<u32> = (0..SEEDS).map(|image| image % 3).collect();
            let diversity = Diversity { per_image: times, class_pairs, shortlist: None };
            let chosen = diversity.choose(&shortlist, wanted, pool(), &classes);
            prop_assert_eq!(chosen.len(), wanted.min(shortlist.len()));
            prop_assert!(chosen.windows(2).all(|two| two[0] < two[1]));
            if times.is_none() && !class_pairs {
                prop_assert_eq!(chosen, (0..wanted.min(shortlist.len())).collect::<Vec<_>>());
            }
        }
    }
}
