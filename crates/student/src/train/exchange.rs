//! Adds the buckets of all shards of all ranks along the fixed tree (invariant I11): each rank adds
//! up the largest tree nodes that it owns, all ranks exchange those, and each finishes the tree.
//! Or, where speed counts more than bits, in whatever order an all-reduce takes.

use stillhouse_collective::{Collective, DevicePointer};
use stillhouse_core::job::Determinism;
use stillhouse_core::shards::{Block, blocks, owned, reduce};
use tch::{Device, Kind, Tensor};

use super::config::TrainConfig;
use crate::error::StudentError;
use crate::ffi::{floats, on_card};

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
        let lost = |source| StudentError::Collective { step, source };
        if let (Some(cards), Some(data)) = (collective.cards(), on_card(&sum)) {
            cards.all_reduce(data).map_err(lost)?;
            return Ok(sum);
        }
        let mut values = self.outgoing(&[sum])?;
        collective.all_reduce(&mut values).map_err(lost)?;
        Ok(Tensor::f_from_slice(&values)?.f_to_device(self.device)?)
    }

    /// In the tree's order, the same for every world size.
    fn gather_and_sum(&self, collective: &mut dyn Collective, step: u64) -> Result<Tensor, StudentError> {
        let world = collective.world_size();
        let mine = self.blocks_of(collective.rank(), world);
        let nodes = mine
            .iter()
            .map(|block| self.node(*block))
            .collect::<Result<Vec<Tensor>, _>>()?;
        if world == 1 {
            return Ok(nodes.into_iter().next().expect("a world of one owns the root"));
        }
        let lost = |source| StudentError::Collective { step, source };
        if let (Some(cards), Device::Cuda(_)) = (collective.cards(), self.device) {
            return self.gather_on_cards(&nodes, world, |mine, all| cards.all_gather(mine, all).map_err(lost));
        }
        let counts: Vec<usize> = (0..world)
            .map(|rank| self.blocks_of(rank, world).len() * self.length)
            .collect();
        let gathered = collective.all_gather(&self.outgoing(&nodes)?, &counts).map_err(lost)?;
        let all = Tensor::f_from_slice(&gathered)?.f_to_device(self.device)?;
        let blocks = (0..world).flat_map(|rank| self.blocks_of(rank, world));
        self.finish(&all, (0..).zip(blocks))
    }

    /// As it is between hosts, but all ranks bring the same length, so that some rows stay unused.
    fn gather_on_cards(
        &self,
        nodes: &[Tensor],
        world: usize,
        gather: impl FnOnce(DevicePointer, DevicePointer) -> Result<(), StudentError>,
    ) -> Result<Tensor, StudentError> {
        let most = (0..world).map(|rank| self.blocks_of(rank, world).len()).max();
        let most = most.expect("a world has ranks");
        let rows = |rows: usize| Tensor::f_zeros([(rows * self.length) as i64], (Kind::Float, self.device));
        let (mine, all) = (rows(most)?, rows(most * world)?);
        for (row, node) in (0..).zip(nodes) {
            self.row(&mine, row)?.f_copy_(node)?;
        }
        let pointer = |tensor| on_card(tensor).expect("made on the card above");
        gather(pointer(&mine), pointer(&all))?;
        let numbered = (0..world).flat_map(|rank| (rank * most..).zip(self.blocks_of(rank, world)));
        self.finish(&all, numbered)
    }

    /// The tree's nodes that `rank` adds up by itself.
    fn blocks_of(&self, rank: usize, world: usize) -> Vec<Block> {
        blocks(owned(self.shards, rank, world))
    }

    fn row(&self, rows: &Tensor, row: usize) -> Result<Tensor, StudentError> {
        let length = self.length as i64;
        Ok(rows.f_narrow(0, row as i64 * length, length)?)
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

    /// The sum of the nodes that lie in these rows of `all`.
    fn finish(&self, all: &Tensor, nodes: impl Iterator<Item = (usize, Block)>) -> Result<Tensor, StudentError> {
        let nodes = nodes.map(|(row, block)| Ok((block, self.row(all, row)?)));
        add_up(nodes.collect::<Result<Vec<_>, StudentError>>()?)
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
