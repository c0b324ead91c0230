//! The trait that all worlds implement.

use std::time::Duration;

use nccl_rs::DevicePointer;

use crate::error::{CollectiveError, Operation};

/// One rank's place in a world of ranks that compute together.
///
/// Every rank makes the same calls in the same order. After any error except
/// [`CollectiveError::Counts`] the world is finished: each later call fails too, and the caller
/// builds a new one.
pub trait Collective: Send {
    /// Returns this rank, in `0..world_size`.
    fn rank(&self) -> usize;

    /// Returns the number of ranks, at least 1.
    fn world_size(&self) -> usize;

    /// Concatenates the floats of all ranks in rank order, bit for bit.
    ///
    /// `counts[r]` is how many floats rank `r` brings (zero allowed), the same on every rank;
    /// `mine` holds `counts[rank]` floats. The result holds `counts.iter().sum()` floats, and is
    /// the same on every rank.
    ///
    /// # Errors
    /// [`CollectiveError::Counts`] before anything is sent when `counts` does not fit the world or
    /// `mine`; otherwise what became of the peers.
    fn all_gather(&mut self, mine: &[f32], counts: &[usize]) -> Result<Vec<f32>, CollectiveError>;

    /// Replaces `data` by its elementwise sum over all ranks.
    ///
    /// The length is the same on every rank. The result has the same bits on every rank, and the
    /// same bits in every run with the same world size: each element is added in a fixed order of
    /// ranks. That order depends on the world size; a sum that may not depend on it (determinism
    /// `strict`) gathers instead and adds in its own order.
    ///
    /// # Errors
    /// What became of the peers. The content of `data` is then unspecified.
    fn all_reduce(&mut self, data: &mut [f32]) -> Result<(), CollectiveError>;

    /// How long this rank has waited since the last call of this: with everything sent that could be, before the first
    /// byte of another rank came. None where that cannot be told from the exchange itself, as between cards.
    fn take_waited(&mut self) -> Duration {
        Duration::ZERO
    }

    /// The same operations between cards, where this world has them: gradients then never leave
    /// the cards' memory.
    fn cards(&mut self) -> Option<&mut dyn CardCollective> {
        None
    }

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// What became of the peers.
    fn barrier(&mut self) -> Result<(), CollectiveError>;

    /// Every rank's words, in rank order: `result[r]` is what rank `r` brought.
    ///
    /// All ranks bring the same number of words.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather).
    fn gather_words(&mut self, mine: &[u64]) -> Result<Vec<Vec<u64>>, CollectiveError> {
        if mine.is_empty() {
            return Ok(vec![Vec::new(); self.world_size()]);
        }
        let counts = vec![mine.len() * FLOATS_A_WORD; self.world_size()];
        let all = self.all_gather(bytemuck::cast_slice(mine), &counts)?;
        let words = all.chunks_exact(FLOATS_A_WORD).map(|halves| {
            let [low, high] = [halves[0].to_bits(), halves[1].to_bits()];
            u64::from_ne_bytes(bytemuck::cast([low, high]))
        });
        let words: Vec<u64> = words.collect();
        Ok(words.chunks_exact(mine.len()).map(<[u64]>::to_vec).collect())
    }

    /// Replaces `bytes` on every rank by those of rank `root`, whatever their length.
    ///
    /// # Errors
    /// As [`all_gather`](Self::all_gather), and [`CollectiveError::Counts`] on every rank when the root brings more
    /// than [`MAX_BROADCAST_BYTES`] or is no rank: then nothing is sent.
    fn broadcast(&mut self, bytes: &mut Vec<u8>, root: usize) -> Result<(), CollectiveError> {
        let lengths = self.gather_words(&[bytes.len() as u64])?;
        let length = lengths.get(root).map_or(u64::MAX, |words| words[0]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_BROADCAST_BYTES {
            return Err(CollectiveError::Counts {
                rank: self.rank(),
                operation: Operation::AllGather,
                what: "bytes of a broadcast, at most",
                expected: MAX_BROADCAST_BYTES,
                found: length,
            });
        }
        let mut counts = vec![0; self.world_size()];
        counts[root] = length.div_ceil(size_of::<f32>());
        let mut mine = Vec::new();
        if self.rank() == root {
            mine.resize(counts[root], 0.0);
            bytemuck::cast_slice_mut(&mut mine)[..length].copy_from_slice(bytes);
        }
        let all = self.all_gather(&mine, &counts)?;
        if self.rank() != root {
            bytes.clear();
            bytes.extend_from_slice(&bytemuck::cast_slice(&all)[..length]);
        }
        Ok(())
    }
}

/// Operations on `f32` in the memory of each rank's card. Each call returns once this rank's card
/// holds the result.
///
/// As for a [`Collective`], every rank makes the same calls with the same lengths, and the world is
/// finished after an error. A rank that leaves after its last operation first calls
/// [`Collective::barrier`]: another one's card may still be reading from its own.
pub trait CardCollective {
    /// Puts every rank's `mine` into `all`, in rank order, bit for bit. All bring the same length.
    ///
    /// # Errors
    /// As [`Collective::all_gather`]; [`CollectiveError::Counts`] when `all` has no room for as much of
    /// every rank.
    fn all_gather(&mut self, mine: DevicePointer, all: DevicePointer) -> Result<(), CollectiveError>;

    /// Replaces `data` by its elementwise sum over all ranks, with the same bits on every rank. The
    /// order of addition is the library's.
    ///
    /// # Errors
    /// As [`Collective::all_reduce`].
    fn all_reduce(&mut self, data: DevicePointer) -> Result<(), CollectiveError>;
}

/// Largest broadcast: a peer that claims more is in error.
pub const MAX_BROADCAST_BYTES: usize = 1 << 32;

/// A word travels as the bits of two floats.
const FLOATS_A_WORD: usize = size_of::<u64>() / size_of::<f32>();

/// Checks the arguments of an all-gather, and returns the length of its result.
///
/// # Errors
/// [`CollectiveError::Counts`] with the number that was expected and the one that was found.
pub(crate) fn gathered_len(
    rank: usize,
    world_size: usize,
    mine: &[f32],
    counts: &[usize],
) -> Result<usize, CollectiveError> {
    let wrong = |what, expected, found| CollectiveError::Counts {
        rank,
        operation: Operation::AllGather,
        what,
        expected,
        found,
    };
    if counts.len() != world_size {
        return Err(wrong("counts, one for each rank", world_size, counts.len()));
    }
    if counts[rank] != mine.len() {
        return Err(wrong("floats of this rank", counts[rank], mine.len()));
    }
    counts
        .iter()
        .try_fold(0_usize, |sum, &count| sum.checked_add(count))
        .filter(|&sum| sum <= isize::MAX as usize / size_of::<f32>())
        .ok_or_else(|| wrong("floats that fit in memory", isize::MAX as usize / 4, usize::MAX))
}
