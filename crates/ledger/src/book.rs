//! The permit protocol as a pure state machine; [`crate::permit`] lists its transitions.
//!
//! Invariant I1: reserved + sent + ambiguous + spent + committed charges never exceed the budget.

use std::collections::HashSet;

use foldhash::fast::RandomState;
use indexmap::IndexMap;
use indexmap::map::Entry;
use stillhouse_core::plan::Arm;
use stillhouse_core::{Key, Sample};

use crate::counts::Counts;
use crate::permit::{Cause, Charge, Decision, OnAmbiguous, Permit, Proof, Record, Refusal, RequestId, State};

/// What a report makes of a charge.
enum Next {
    Stays,
    Becomes(State),
    GivenBack,
}

/// What a wish to ask comes to, but for the budget.
enum Wish {
    Settled(Decision),
    Reserve,
    /// In doubt, for this cause.
    Renew(Cause),
}

/// Records by key, in the order in which the keys came up. Keys are digests already.
pub type Records = IndexMap<Key, Record, RandomState>;

/// Every charge of a job.
#[derive(Clone, Debug)]
pub struct Book {
    epoch: u64,
    policy: OnAmbiguous,
    counts: Counts,
    /// None is ever taken out, so a position names a record.
    records: Records,
    /// Positions of the records that changed since they were last written, in order of change.
    changed: Vec<usize>,
}

impl Book {
    /// The book in life `epoch` of what earlier lives left: what was reserved is void, and of what
    /// was sent nobody knows. Only the latter must be written ([`Book::changes`]), so that opening
    /// costs no more than reading.
    #[must_use]
    pub fn open(budget: u64, policy: OnAmbiguous, epoch: u64, records: Records) -> Self {
        let mut book = Self {
            epoch,
            policy,
            counts: Counts {
                budget,
                ..Counts::default()
            },
            records,
            changed: Vec::new(),
        };
        for (at, record) in book.records.values_mut().enumerate() {
            if record.outlive(epoch) {
                book.changed.push(at);
            }
            book.counts.add(record);
        }
        book
    }

    /// This life.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Charges by state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A key's record.
    #[must_use]
    pub fn record(&self, key: &Key) -> Option<&Record> {
        self.records.get(key)
    }

    /// Where a key's record stands among all of them, from 0; it stays there.
    #[must_use]
    pub fn position(&self, key: &Key) -> Option<usize> {
        self.records.get_index_of(key)
    }

    /// Every record, in the order in which the keys came up.
    pub fn records(&self) -> impl Iterator<Item = (&Key, &Record)> {
        self.records.iter()
    }

    /// What is permitted in this life and not sent, in the order in which the keys came up.
    #[must_use]
    pub fn outstanding(&self) -> Vec<(Permit, Sample, Arm)> {
        let open = |(key, record): (&Key, &Record)| {
            let charge = record.charges.iter().find(|charge| charge.may_be_sent())?;
            let permit = Permit {
                key: *key,
                epoch: charge.epoch,
                charge: charge.number,
            };
            Some((permit, record.sample, record.arm))
        };
        self.records().filter_map(open).collect()
    }

    /// The records that changed and are not written yet, with their positions; new ones in order.
    pub fn changes(&self) -> impl Iterator<Item = (usize, &Key, &Record)> {
        let record = |at: &usize| self.records.get_index(*at).map(|(key, record)| (*at, key, record));
        self.changed.iter().filter_map(record)
    }

    /// What [`Book::changes`] gave is written.
    pub fn forget_changes(&mut self) {
        self.changed.clear();
    }

    /// Allows `budget` queries in all; `false` when that is fewer than now, and nothing changed.
    pub fn raise_budget(&mut self, budget: u64) -> bool {
        let grows = budget >= self.counts.budget;
        if grows {
            self.counts.budget = budget;
        }
        grows
    }

    /// Decides whether `key` may be asked; reserves a charge, or renews one, when it may. Whom a key
    /// was asked for first pays for it.
    pub fn admit(&mut self, key: Key, sample: Sample, arm: Arm) -> Decision {
        let at = match self.records.entry(key) {
            Entry::Occupied(known) => known.index(),
            Entry::Vacant(_) if self.counts.left() == 0 => return Decision::Exhausted,
            Entry::Vacant(new) => {
                let at = new.index();
                new.insert(Record::new(sample, arm));
                at
            }
        };
        match wish(self.policy, &self.records[at]) {
            Wish::Settled(decision) => decision,
            Wish::Renew(cause) => self.renew(key, at, cause),
            Wish::Reserve => self.reserve(key, at),
        }
    }

    /// Permits the last charge once more: it is in doubt before and after, at no charge.
    fn renew(&mut self, key: Key, at: usize, cause: Cause) -> Decision {
        let epoch = self.epoch;
        let mut number = 0;
        self.change(at, |record| {
            let charge = record.charges.last_mut().expect("what is renewed is there");
            (charge.state, charge.epoch) = (State::Renewed(cause), epoch);
            number = charge.number;
        });
        Decision::Permitted(Permit {
            key,
            epoch,
            charge: number,
        })
    }

    fn reserve(&mut self, key: Key, at: usize) -> Decision {
        if self.counts.left() == 0 {
            return Decision::Exhausted;
        }
        let Some(number) = self.records[at].issued.checked_add(1) else {
            return Decision::Held(Cause::new("it was permitted and given back four billion times"));
        };
        let epoch = self.epoch;
        self.change(at, |record| {
            record.issued = number;
            record.charges.push(Charge {
                number,
                sends: 0,
                epoch,
                request: None,
                state: State::Reserved,
            });
        });
        Decision::Permitted(Permit {
            key,
            epoch,
            charge: number,
        })
    }

    /// Notes that a byte may leave from now on, by `request` only. Returns those of `permits` that
    /// are now marked by it, in order and each once: only these may be sent. Asking again gets the
    /// same answer while they are in flight. What is not valid (any more), or marked by another
    /// request, is left as it is.
    pub fn mark_sent(&mut self, request: RequestId, permits: &[Permit]) -> Vec<Permit> {
        let mut marked = HashSet::with_capacity(permits.len());
        let accepted = |permit: &&Permit| self.mark(request, **permit).is_ok() && marked.insert(**permit);
        permits.iter().filter(accepted).copied().collect()
    }

    fn mark(&mut self, request: RequestId, permit: Permit) -> Result<(), Refusal> {
        self.report(permit, |charge| match charge.state {
            // A question that the network kept until its answer was of no use any more.
            State::Renewed(_) if charge.request == Some(request) => Err(Refusal::UsedRequest),
            State::Reserved | State::Renewed(_) => {
                charge.request = Some(request);
                charge.sends = charge.sends.saturating_add(1);
                Ok(Next::Becomes(State::Sent))
            }
            State::Sent => charge.held_by(request).map(|()| Next::Stays),
            State::Ambiguous(_) | State::Spent(_) | State::Committed => Err(charge.refusal()),
        })
    }

    /// Notes that a label came; `true` when it is the key's first and must be kept. It was paid for,
    /// so it is taken from an earlier life and from a charge in doubt, too (I3). What was permitted
    /// for the key and not sent yet is withdrawn; what was sent brings a label of no use.
    ///
    /// # Errors
    /// When the permit was not sent, or is settled; nothing changed.
    pub fn commit(&mut self, permit: Permit) -> Result<bool, Refusal> {
        let (at, within) = self.find(permit)?;
        let record = &self.records[at];
        let charge = &record.charges[within];
        let first = !record.is_labelled();
        match charge.state {
            State::Sent | State::Ambiguous(_) | State::Renewed(_) => {}
            // One attempt brought nonsense, an earlier one with the same idempotency key the label.
            State::Spent(_) if first => {}
            State::Reserved | State::Spent(_) | State::Committed => return Err(charge.refusal()),
        }
        let state = if first {
            State::Committed
        } else {
            State::Spent(Cause::new("another label of the same query had come first"))
        };
        self.change(at, |record| {
            record.charges[within].state = state;
            record.withdraw();
        });
        Ok(first)
    }

    /// Notes that the label of a query is known from another job of the same teacher, at no charge;
    /// `true` when it is the key's first and must be kept. What was permitted for the key and not
    /// sent yet is withdrawn.
    pub fn import(&mut self, key: Key, sample: Sample, arm: Arm) -> bool {
        let entry = self.records.entry(key);
        let at = entry.index();
        let first = !entry.or_insert_with(|| Record::new(sample, arm)).is_labelled();
        if first {
            self.change(at, |record| {
                record.imported = true;
                record.withdraw();
            });
        }
        first
    }

    /// Notes that nobody knows whether a sent query was billed.
    ///
    /// # Errors
    /// When the permit is not in flight for `request`; nothing changed.
    pub fn ambiguous(&mut self, request: RequestId, permit: Permit, cause: &Cause) -> Result<(), Refusal> {
        self.close_sent(request, permit, State::Ambiguous(cause.clone()))
    }

    /// Notes that a query was billed and its answer is no label.
    ///
    /// # Errors
    /// When the permit is not in flight for `request`; nothing changed.
    pub fn spent(&mut self, request: RequestId, permit: Permit, cause: &Cause) -> Result<(), Refusal> {
        self.close_sent(request, permit, State::Spent(cause.clone()))
    }

    fn close_sent(&mut self, request: RequestId, permit: Permit, to: State) -> Result<(), Refusal> {
        self.report(permit, |charge| match charge.state {
            State::Sent => charge.held_by(request).map(|()| Next::Becomes(to)),
            State::Reserved | State::Ambiguous(_) | State::Renewed(_) | State::Spent(_) | State::Committed => {
                Err(charge.refusal())
            }
        })
    }

    /// Gives a charge back: a reserved one always, one sent by `request` on proof that nothing was
    /// billed. Without proof, or when it was sent before, it stays, as ambiguous.
    ///
    /// # Errors
    /// When the permit is neither reserved nor in flight for `request`; nothing changed.
    pub fn release(&mut self, request: RequestId, permit: Permit, proof: Proof) -> Result<(), Refusal> {
        self.report(permit, |charge| match charge.state {
            State::Sent => charge.held_by(request).map(|()| sent_and_released(charge, proof)),
            State::Reserved | State::Ambiguous(_) | State::Renewed(_) | State::Spent(_) | State::Committed => {
                not_sent(charge)
            }
        })
    }

    /// Gives back what was permitted and not sent: anybody may.
    ///
    /// # Errors
    /// When the permit was sent, or is settled; nothing changed.
    pub fn give_back(&mut self, permit: Permit) -> Result<(), Refusal> {
        self.report(permit, |charge| not_sent(charge))
    }

    /// Gives back a charge in doubt, of any life, because the teacher's invoice is closed and does
    /// not contain it.
    ///
    /// # Errors
    /// When the charge is not ambiguous; nothing changed.
    pub fn acquit(&mut self, permit: Permit) -> Result<(), Refusal> {
        let (at, within) = self.find(permit)?;
        let charge = &self.records[at].charges[within];
        if !matches!(charge.state, State::Ambiguous(_)) {
            return Err(charge.refusal());
        }
        self.change(at, |record| drop(record.charges.remove(within)));
        Ok(())
    }

    /// Applies a report about a permit of this life.
    fn report(
        &mut self,
        permit: Permit,
        next: impl FnOnce(&mut Charge) -> Result<Next, Refusal>,
    ) -> Result<(), Refusal> {
        if permit.epoch != self.epoch {
            return Err(Refusal::OldEpoch);
        }
        let (at, within) = self.find(permit)?;
        match next(&mut self.records[at].charges[within])? {
            Next::Stays => {}
            Next::Becomes(state) => self.change(at, |record| record.charges[within].state = state),
            Next::GivenBack => self.change(at, |record| drop(record.charges.remove(within))),
        }
        Ok(())
    }

    /// Position of a permit's record, and of its charge therein. Its number names it in every life.
    fn find(&self, permit: Permit) -> Result<(usize, usize), Refusal> {
        let (at, _, record) = self.records.get_full(&permit.key).ok_or(Refusal::Unknown)?;
        let named = |charge: &Charge| charge.number == permit.charge && permit.epoch <= charge.epoch;
        let within = record.charges.iter().position(named).ok_or(Refusal::Unknown)?;
        Ok((at, within))
    }

    /// Changes a record and what is counted of it.
    fn change(&mut self, at: usize, change: impl FnOnce(&mut Record)) {
        let record = &mut self.records[at];
        self.counts.remove(record);
        change(record);
        self.counts.add(record);
        self.changed.push(at);
    }
}

fn wish(policy: OnAmbiguous, record: &Record) -> Wish {
    if record.is_labelled() {
        return Wish::Settled(Decision::Known);
    }
    let Some(last) = record.charges.last() else {
        return Wish::Reserve;
    };
    match &last.state {
        State::Committed => Wish::Settled(Decision::Known),
        State::Reserved | State::Renewed(_) | State::Sent => Wish::Settled(Decision::InFlight),
        State::Spent(cause) => Wish::Settled(Decision::Held(cause.clone())),
        State::Ambiguous(cause) => match policy {
            OnAmbiguous::Resend { attempts } if record.charges.len() as u64 <= u64::from(attempts) => Wish::Reserve,
            OnAmbiguous::IdempotencyKey { attempts } if last.sends <= attempts => Wish::Renew(cause.clone()),
            OnAmbiguous::Hold | OnAmbiguous::Resend { .. } | OnAmbiguous::IdempotencyKey { .. } => {
                Wish::Settled(Decision::Held(cause.clone()))
            }
        },
    }
}

/// What becomes of a charge that was permitted and is not needed.
fn not_sent(charge: &Charge) -> Result<Next, Refusal> {
    match &charge.state {
        State::Reserved => Ok(Next::GivenBack),
        State::Renewed(cause) => Ok(Next::Becomes(State::Ambiguous(cause.clone()))),
        State::Sent | State::Ambiguous(_) | State::Spent(_) | State::Committed => Err(charge.refusal()),
    }
}

/// What becomes of a sent charge whose request was not billed, if `proof` holds.
fn sent_and_released(charge: &mut Charge, proof: Proof) -> Next {
    if !proof.holds() {
        let cause = format!("{proof:?} does not prove that nothing was billed");
        return Next::Becomes(State::Ambiguous(Cause::new(&cause)));
    }
    charge.sends = charge.sends.saturating_sub(1);
    if charge.sends == 0 {
        return Next::GivenBack;
    }
    Next::Becomes(State::Ambiguous(Cause::new(
        "an earlier attempt of unknown fate; the last one was not billed",
    )))
}
