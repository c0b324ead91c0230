//! Adds the buckets of all shards of all ranks along the fixed tree (invariant I11): each rank adds
//! up the largest tree nodes that it owns, all ranks exchange those, and each finishes the tree.
//! Or, where speed counts more than bits, in whatever order an all-reduce takes.

use stillhouse_collective::Collective;
use stillhouse_core::job::Determinism;
use stillhouse_core::shards::{Block, blocks, owned, reduce};
use tch::{Device, Kind, Tensor};

use super::config::TrainConfig;
use crate::error::StudentError;
use crate::ffi::floats;

/// What this rank knows about the tree.
pub(crate) struct Exchange {
    shards: usize,
    /// `(index, bucket)` of the shards that this rank owns, ascending.
    buckets: Vec<(usize, Tensor)>,
    length: usize,
    device: Device,
    determinism: Determinism,
}

impl Exchange {
    /// For `config`'s shards, of which this rank has `buckets` of `length` floats on `device`.
    pub(crate) fn new(config: &TrainConfig, buckets: Vec<(usize, Tensor)>, length: usize, device: Device) -> Self {
        Self {
            shards: config.shards,
            buckets,
            length,
            device,
            determinism: config.determinism,
        }
    }

    /// The sum of all buckets, which has the same bits on every rank. Buckets of this rank are used up.
    ///
    /// An answer means that every rank's part is in it, so it can be applied; an error means that
    /// nothing was.
    pub(crate) fn sum(&self, collective: &mut dyn Collective, step: u64) -> Result<Tensor, StudentError> {
        match self.determinism {
            Determinism::Strict => self.gather_and_sum(collective, step),
            Determinism::Fast => self.all_reduce(collective, step),
        }
    }

    /// In an order that depends on the number of ranks.
    fn all_reduce(&self, collective: &mut dyn Collective, step: u64) -> Result<Tensor, StudentError> {
        let sum = match self.buckets.split_first() {
            None => Tensor::f_zeros([self.length as i64], (Kind::Float, self.device))?,
            Some(((_, first), rest)) => {
                let mut sum = first.shallow_clone();
                for (_, bucket) in rest {
                    let _same = sum.f_add_(bucket)?;
                }
                sum
            }
        };
        if collective.world_size() == 1 {
            return Ok(sum);
        }
        let mut values = self.outgoing(&[sum])?;
        collective
            .all_reduce(&mut values)
            .map_err(|source| StudentError::Collective { step, source })?;
        Ok(Tensor::f_from_slice(&values)?.f_to_device(self.device)?)
    }

    /// In the tree's order, the same for every world size.
    fn gather_and_sum(&self, collective: &mut dyn Collective, step: u64) -> Result<Tensor, StudentError> {
        let world = collective.world_size();
        let mine = blocks(owned(self.shards, collective.rank(), world));
        let nodes = mine
            .iter()
            .map(|block| self.node(*block))
            .collect::<Result<Vec<Tensor>, _>>()?;
        if world == 1 {
            return Ok(nodes.into_iter().next().expect("a world of one owns the root"));
        }
        let counts: Vec<usize> = (0..world)
            .map(|rank| blocks(owned(self.shards, rank, world)).len() * self.length)
            .collect();
        let gathered = collective
            .all_gather(&self.outgoing(&nodes)?, &counts)
            .map_err(|source| StudentError::Collective { step, source })?;
        self.finish(&gathered, world)
    }

    /// The sum over one block of this rank's shards, in the bucket of its first shard.
    fn node(&self, block: Block) -> Result<Tensor, StudentError> {
        let leaves = self
            .buckets
            .iter()
            .filter(|(shard, _)| (block.start..block.start + block.len).contains(shard));
        let leaves = leaves.map(|(shard, bucket)| (Block { start: *shard, len: 1 }, bucket.shallow_clone()));
        add_up(leaves)
    }

    fn outgoing(&self, nodes: &[Tensor]) -> Result<Vec<f32>, StudentError> {
        let mut values = Vec::with_capacity(nodes.len() * self.length);
        for node in nodes {
            let node = node.f_to_device(Device::Cpu)?;
            values.extend_from_slice(floats(&node).expect("buckets are flat floats"));
        }
        Ok(values)
    }

    fn finish(&self, gathered: &[f32], world: usize) -> Result<Tensor, StudentError> {
        let all = Tensor::f_from_slice(gathered)?.f_to_device(self.device)?;
        let nodes = all.f_view([-1, self.length as i64])?;
        let blocks = (0..world).flat_map(|rank| blocks(owned(self.shards, rank, world)));
        let rows = (0..)
            .zip(blocks)
            .map(|(row, block)| nodes.f_get(row).map(|node| (block, node)));
        add_up(rows.collect::<Result<Vec<_>, _>>()?)
    }
}

/// Adds along the tree, into the left operands.
fn add_up(nodes: impl IntoIterator<Item = (Block, Tensor)>) -> Result<Tensor, StudentError> {
    let mut failed = None;
    let root = reduce(nodes, |left, right| {
        if let Err(error) = left.f_add_(&right) {
            failed.get_or_insert(error);
        }
    });
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(root.expect("every block has a leaf")),
    }
}
