//! Adds the buckets of all shards of all ranks along the fixed tree (invariant I11): each rank adds
//! up the largest tree nodes that it owns, all ranks exchange those, and each finishes the tree.

use stillhouse_collective::Collective;
use stillhouse_core::shards::{Block, blocks, owned, reduce};
use tch::{Device, Tensor};

use crate::error::StudentError;
use crate::ffi::floats;

/// What this rank knows about the tree.
pub(crate) struct Exchange {
    shards: usize,
    /// `(index, bucket)` of the shards that this rank owns, ascending.
    buckets: Vec<(usize, Tensor)>,
    length: usize,
    device: Device,
}

impl Exchange {
    pub(crate) fn new(shards: usize, buckets: Vec<(usize, Tensor)>, length: usize, device: Device) -> Self {
        Self {
            shards,
            buckets,
            length,
            device,
        }
    }

    /// The sum of all buckets; the same bits on every rank and for every world size. Buckets of this
    /// rank are used up.
    pub(crate) fn sum(&self, collective: &mut dyn Collective, step: u64) -> Result<Tensor, StudentError> {
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
