//! Virtual shards of a training step (invariant I11): the batch is cut into a fixed, power-of-two
//! number of shards, and their gradients are added along one fixed binary tree, whoever computed
//! them. So the sum has the same bits for any world size.

use std::ops::Range;

/// An aligned block of shards: the leaves `start..start + len` of one node of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// First shard, a multiple of `len`.
    pub start: usize,
    /// Number of shards, a power of two.
    pub len: usize,
}

/// The shards that `rank` of `world` computes: contiguous, sizes differing by at most one. Ranks
/// beyond the number of shards get none.
#[must_use]
pub fn owned(shards: usize, rank: usize, world: usize) -> Range<usize> {
    rank * shards / world..(rank + 1) * shards / world
}

/// The largest tree nodes that lie wholly inside `range`, left to right: what one rank can add up
/// on its own.
#[must_use]
pub fn blocks(range: Range<usize>) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut start = range.start;
    while start < range.end {
        let aligned = if start == 0 {
            usize::MAX
        } else {
            1 << start.trailing_zeros()
        };
        let fits = 1 << (range.end - start).ilog2();
        let len = aligned.min(fits);
        blocks.push(Block { start, len });
        start += len;
    }
    blocks
}

/// Adds the values of `blocks` (left to right, together the whole tree or an aligned part of it)
/// along the tree: `add(left, right)` adds right into left. Returns the root; `None` when empty.
pub fn reduce<T>(blocks: impl IntoIterator<Item = (Block, T)>, mut add: impl FnMut(&mut T, T)) -> Option<T> {
    let mut stack: Vec<(Block, T)> = Vec::new();
    for (block, value) in blocks {
        stack.push((block, value));
        while let [.., (left, _), (right, _)] = stack.as_slice()
            && left.len == right.len
            && left.start % (2 * left.len) == 0
        {
            let (_, right) = stack.pop().expect("two on the stack");
            let (left, into) = stack.last_mut().expect("two on the stack");
            add(into, right);
            left.len *= 2;
        }
    }
    debug_assert!(stack.len() <= 1, "blocks make one tree node");
    stack.pop().map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(range: Range<usize>) -> Option<String> {
        let leaves = range.map(|s| (Block { start: s, len: 1 }, s.to_string()));
        reduce(leaves, |l, r| *l = format!("({l}+{r})"))
    }

    #[test]
    fn the_sum_is_the_same_expression_for_every_world_size() {
        for shards in [1, 2, 4, 8, 16] {
            let want = tree(0..shards);
            for world in 1..=shards + 2 {
                let partial = (0..world)
                    .flat_map(|rank| blocks(owned(shards, rank, world)))
                    .map(|b| (b, tree(b.start..b.start + b.len).expect("not empty")));
                let got = reduce(partial, |l, r| *l = format!("({l}+{r})"));
                assert_eq!(got, want, "{shards} shards on {world}");
            }
        }
    }

    #[test]
    fn every_shard_has_one_owner() {
        let all: Vec<usize> = (0..3).flat_map(|rank| owned(8, rank, 3)).collect();
        assert_eq!(all, (0..8).collect::<Vec<_>>());
    }
}
