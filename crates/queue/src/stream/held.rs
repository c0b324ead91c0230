//! What this consumer holds: blocks that the stream delivered to it, and what became of each reference.
//! Plain data; what the server must be told waits in an outbox until it was.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::block::Nonce;
use crate::{Lease, LeaseId, Reference};

/// Name that the server gave to a stream entry.
pub(super) type EntryId = String;

/// Deliveries of one consumer.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Delivered to this consumer, not yet to a caller.
    surplus: VecDeque<(BlockId, Reference)>,
    blocks: HashMap<BlockId, Block>,
    leases: BTreeMap<LeaseId, Delivery>,
    last_block: u64,
    last_lease: u64,
    /// References that callers wait for.
    wanted: usize,
    outbox: VecDeque<Settlement>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct BlockId(u64);

#[derive(Debug)]
struct Block {
    entry: EntryId,
    nonce: Nonce,
    /// References in it.
    total: usize,
    /// Those of them that are neither acknowledged nor given back.
    open: usize,
}

#[derive(Debug)]
struct Delivery {
    block: BlockId,
    since: Instant,
    reference: Reference,
}

/// What a life is to be told: repeated, it does at worst deliver references twice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settlement {
    pub(super) nonce: Nonce,
    /// Entries of which every reference is settled, and how many references each had.
    pub(super) ended: Vec<(EntryId, usize)>,
    /// References to be delivered again.
    pub(super) returned: Vec<Reference>,
}

/// How deliveries end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Never to be delivered again.
    Acknowledged,
    /// To be delivered again.
    Returned,
}

impl Held {
    /// Takes a delivery in; `false` when it is held already (read again after a lost connection).
    pub(super) fn admit(&mut self, entry: EntryId, nonce: Nonce, references: Vec<Reference>) -> bool {
        let ended = self.outbox.iter().flat_map(|settlement| &settlement.ended);
        let mut known = self
            .blocks
            .values()
            .map(|block| &block.entry)
            .chain(ended.map(|(id, _)| id));
        if known.any(|known| *known == entry) {
            return false;
        }
        self.forget_surplus_of_other_lives(nonce);
        self.last_block += 1;
        let id = BlockId(self.last_block);
        let block = Block {
            entry,
            nonce,
            total: references.len(),
            open: references.len(),
        };
        self.blocks.insert(id, block);
        self.surplus
            .extend(references.into_iter().map(|reference| (id, reference)));
        true
    }

    /// Whoever began a life adds everything outstanding to it: what is left of another is double.
    fn forget_surplus_of_other_lives(&mut self, nonce: Nonce) {
        let blocks = &mut self.blocks;
        self.surplus.retain(|(id, _)| {
            let Some(block) = blocks.get_mut(id) else { return false };
            let stays = block.nonce == nonce;
            if !stays {
                block.open -= 1;
            }
            stays
        });
        self.blocks.retain(|_, block| block.open > 0);
    }

    /// Delivers up to `max` references (at least 1, when there are any).
    pub(super) fn take(&mut self, max: usize, now: Instant) -> Vec<Lease> {
        let count = max.max(1).min(self.surplus.len());
        let taken: Vec<_> = self.surplus.drain(..count).collect();
        let lease = |(block, reference)| {
            self.last_lease += 1;
            let id = LeaseId(self.last_lease);
            let since = now;
            self.leases.insert(
                id,
                Delivery {
                    block,
                    since,
                    reference,
                },
            );
            Lease { id, reference }
        };
        taken.into_iter().map(lease).collect()
    }

    /// Ends deliveries; returns how many of them there were.
    pub(super) fn settle(&mut self, leases: &[LeaseId], end: End) -> usize {
        let before = self.leases.len();
        for id in leases {
            if let Some(delivery) = self.leases.remove(id) {
                self.end(delivery.block, delivery.reference, end);
            }
        }
        before - self.leases.len()
    }

    fn end(&mut self, id: BlockId, reference: Reference, end: End) {
        let Some(block) = self.blocks.get_mut(&id) else { return };
        block.open -= 1;
        let (nonce, is_over) = (block.nonce, block.open == 0);
        if end == End::Returned {
            self.settlement(nonce).returned.push(reference);
        }
        if is_over && let Some(block) = self.blocks.remove(&id) {
            self.settlement(nonce).ended.push((block.entry, block.total));
        }
    }

    /// The settlement of a life that is not yet on its way.
    fn settlement(&mut self, nonce: Nonce) -> &mut Settlement {
        let at = self.outbox.iter().position(|settlement| settlement.nonce == nonce);
        let at = at.unwrap_or_else(|| {
            self.outbox.push_back(Settlement {
                nonce,
                ended: Vec::new(),
                returned: Vec::new(),
            });
            self.outbox.len() - 1
        });
        &mut self.outbox[at]
    }

    /// Deliveries that are older than `age`, oldest first.
    pub(super) fn older_than(&self, age: Duration, now: Instant) -> Vec<LeaseId> {
        let is_old = |(_, delivery): &(&LeaseId, &Delivery)| now.saturating_duration_since(delivery.since) >= age;
        self.leases.iter().filter(is_old).map(|(id, _)| *id).collect()
    }

    /// Gives everything back that was delivered to nobody.
    pub(super) fn return_surplus(&mut self) {
        for (block, reference) in std::mem::take(&mut self.surplus) {
            self.end(block, reference, End::Returned);
        }
    }

    /// Next of what the server must be told.
    pub(super) fn next_settlement(&mut self) -> Option<Settlement> {
        self.outbox.pop_front()
    }

    /// The server could not be told.
    pub(super) fn keep(&mut self, settlement: Settlement) {
        let waiting = self.settlement(settlement.nonce);
        waiting.ended.extend(settlement.ended);
        waiting.returned.extend(settlement.returned);
    }

    /// References of a life that the server still counts although they were acknowledged here.
    pub(super) fn settled_of(&self, nonce: &Nonce) -> usize {
        let blocks = self.blocks.values().filter(|block| block.nonce == *nonce);
        let partly: usize = blocks.map(|block| block.total - block.open).sum();
        let outbox = self.outbox.iter().filter(|settlement| settlement.nonce == *nonce);
        outbox.fold(partly, |settled, waiting| {
            let ended: usize = waiting.ended.iter().map(|(_, total)| total).sum();
            (settled + ended).saturating_sub(waiting.returned.len())
        })
    }

    /// Callers wait for `references` more.
    pub(super) fn want(&mut self, references: usize) {
        self.wanted = self.wanted.saturating_add(references);
    }

    /// Callers no longer wait for `references`.
    pub(super) fn unwant(&mut self, references: usize) {
        self.wanted = self.wanted.saturating_sub(references);
    }

    /// References to ask the server for: none while there are some that a caller is about to take.
    pub(super) fn demand(&self) -> usize {
        if self.surplus.is_empty() { self.wanted } else { 0 }
    }

    /// A new life began here: nothing that is held counts any more.
    pub(super) fn clear(&mut self) {
        self.surplus.clear();
        self.blocks.clear();
        self.leases.clear();
        self.outbox.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{ids, references};

    const NONCE: Nonce = [1; 12];

    /// Blocks with so many references each, which are numbered from 0.
    fn holding(sizes: &[u32]) -> Held {
        let mut held = Held::default();
        let mut next = 0;
        for (at, size) in sizes.iter().enumerate() {
            assert!(held.admit(format!("{at}-0"), NONCE, references(next..next + size)));
            next += size;
        }
        held
    }

    #[test]
    fn an_entry_ends_with_the_last_of_its_references() {
        let mut held = holding(&[3]);
        let leases = ids(&held.take(3, Instant::now()));
        assert_eq!(held.settle(&leases[..2], End::Acknowledged), 2);
        assert_eq!(held.next_settlement(), None);
        assert_eq!(held.settled_of(&NONCE), 2);
        assert_eq!(held.settle(&leases, End::Acknowledged), 1);
        assert_eq!(held.settled_of(&NONCE), 3);
        let ended = vec![("0-0".to_owned(), 3)];
        let returned = vec![];
        assert_eq!(
            held.next_settlement(),
            Some(Settlement {
                nonce: NONCE,
                ended,
                returned
            })
        );
        assert_eq!(
            held.settled_of(&NONCE),
            0,
            "what is on its way is the server's to count"
        );
    }

    #[test]
    fn what_is_given_back_goes_at_once_and_only_once() {
        let mut held = holding(&[4]);
        let leases = ids(&held.take(3, Instant::now()));
        held.settle(&leases[..1], End::Acknowledged);
        held.settle(&leases[1..], End::Returned);
        let settlement = held.next_settlement().unwrap();
        assert_eq!((settlement.ended.len(), settlement.returned), (0, references(1..3)));
        held.return_surplus();
        let settlement = held.next_settlement().unwrap();
        assert_eq!((settlement.ended.len(), settlement.returned), (1, references(3..4)));
    }

    #[test]
    fn what_could_not_be_told_waits_with_what_comes_later() {
        let mut held = holding(&[1, 1]);
        let leases = ids(&held.take(2, Instant::now()));
        held.settle(&leases[..1], End::Acknowledged);
        let lost = held.next_settlement().unwrap();
        held.settle(&leases[1..], End::Returned);
        held.keep(lost);
        let settlement = held.next_settlement().unwrap();
        assert_eq!((settlement.ended.len(), settlement.returned), (2, references(1..2)));
        assert_eq!(held.next_settlement(), None);
    }

    #[test]
    fn an_entry_that_is_read_again_is_delivered_once() {
        let mut held = holding(&[2]);
        assert!(!held.admit("0-0".to_owned(), NONCE, references(0..2)));
        let leases = ids(&held.take(9, Instant::now()));
        assert_eq!(leases.len(), 2);
        held.settle(&leases, End::Acknowledged);
        assert!(
            !held.admit("0-0".to_owned(), NONCE, references(0..2)),
            "its end waits to be told"
        );
    }

    #[test]
    fn a_new_life_voids_the_surplus_of_the_old_one() {
        let mut held = holding(&[4]);
        let old = held.take(1, Instant::now());
        let other = [2; 12];
        assert!(held.admit("7-0".to_owned(), other, references(0..4)));
        let leases = held.take(9, Instant::now());
        assert_eq!(leases.len(), 4);
        assert_eq!(
            held.settle(&ids(&old), End::Acknowledged),
            1,
            "whoever holds it may end it"
        );
        assert_eq!(held.next_settlement().unwrap().nonce, NONCE);
        assert_eq!(held.settled_of(&other), 0);
    }

    #[test]
    fn nothing_is_asked_for_while_there_is_something_to_take() {
        let mut held = Held::default();
        held.want(5);
        assert_eq!(held.demand(), 5);
        held.admit("0-0".to_owned(), NONCE, references(0..2));
        assert_eq!(held.demand(), 0);
        held.take(5, Instant::now());
        held.unwant(5);
        assert_eq!(held.demand(), 0);
    }
}
