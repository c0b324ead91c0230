//! Ledger and bill side by side. Pure: nothing is changed here.
//!
//! Charges are grouped by what the bill names: the request that sent them, or the image. Of a group
//! the ledger knows how many charges were billed for certain and how many are in doubt; the bill
//! says how many it has. What follows:
//!
//! | the bill has | certain ones | ones in doubt |
//! |---|---|---|
//! | as many as both together | billed by both | were billed |
//! | as many as the certain ones, or fewer | billed by both; the rest the provider forgot | were not billed |
//! | something in between | billed by both | of one image: the difference was not billed; of one request: nobody can say which |
//! | more than both together | billed by both | were billed; the excess is on the bill alone |

use std::collections::BTreeMap;

use stillhouse_ledger::{Charge, Entry, Permit, State};

use super::invoice::Invoice;

/// What a bill names a charge by: 32 hexadecimal digits of a request, or 32 bytes of an image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Request(String),
    Image([u8; 32]),
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Request(id) => write!(f, "request {id:?}"),
            Self::Image(digest) => write!(f, "image {}", stillhouse_core::key::hex(digest)),
        }
    }
}

/// Charges of one name.
#[derive(Clone, Debug, Default)]
struct Group {
    certain: u64,
    doubtful: Vec<Permit>,
    /// In doubt too, but the name is only that of the last request that sent them.
    renamed: u64,
}

/// How ledger and bill compare, in charges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Billed by both for certain.
    pub agreed: u64,
    /// In doubt, and on the bill: they were billed.
    pub proven_billed: u64,
    /// In doubt, and not on the bill: they were not billed, if it is closed.
    pub unbilled: Vec<Permit>,
    /// In doubt, and the bill cannot tell.
    pub undecided: u64,
    /// Answered, but not on the bill.
    pub forgotten: u64,
    /// On the bill, but not in the ledger.
    pub foreign: u64,
    /// The first few of those, by name.
    pub foreign_names: Vec<String>,
}

/// Names that are shown.
const SHOWN: usize = 5;

impl Comparison {
    /// Compares `entries` with `invoice`. `digest` gives the BLAKE3 of an entry's pixels; `None`
    /// when the image is not there.
    pub fn of(entries: &[Entry], invoice: &Invoice, mut digest: impl FnMut(&Entry) -> Option<[u8; 32]>) -> Self {
        match invoice {
            Invoice::Total(total) => Self::with_total(entries, *total),
            Invoice::Requests(requests) => {
                let billed = requests.iter().map(|(id, count)| (Name::Request(id.clone()), *count));
                let name = |_: &Entry, charge: &Charge| Some(Name::Request(charge.request?.to_string()));
                Self::with_names(entries, billed.collect(), name, false)
            }
            Invoice::Images(images) => {
                let billed = images.iter().map(|(digest, count)| (Name::Image(*digest), *count));
                let name = |entry: &Entry, _: &Charge| digest(entry).map(Name::Image);
                Self::with_names(entries, billed.collect(), name, true)
            }
        }
    }

    /// Whether the bill lacks what was answered, and so was billed: then it is not closed, and proves
    /// nothing by its silence.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.forgotten > 0
    }

    fn with_total(entries: &[Entry], total: u64) -> Self {
        let mut group = Group::default();
        charges(entries, |_, charge, permit| group.add(charge, permit, false));
        let doubtful = group.in_doubt();
        let agreed = total.min(group.certain);
        let in_doubt = (total - agreed).min(doubtful);
        Self {
            agreed,
            forgotten: group.certain - agreed,
            // All or none of them can be told from a number; which of some cannot.
            proven_billed: if in_doubt == doubtful { doubtful } else { 0 },
            undecided: if in_doubt == doubtful { 0 } else { doubtful },
            foreign: total - agreed - in_doubt,
            ..Self::default()
        }
    }

    fn with_names(
        entries: &[Entry],
        mut billed: BTreeMap<Name, u64>,
        mut name: impl FnMut(&Entry, &Charge) -> Option<Name>,
        by_image: bool,
    ) -> Self {
        let mut groups: BTreeMap<Name, Group> = BTreeMap::new();
        let mut nameless = Group::default();
        charges(entries, |entry, charge, permit| match name(entry, charge) {
            Some(name) => groups.entry(name).or_default().add(charge, permit, by_image),
            None => nameless.add(charge, permit, by_image),
        });
        let mut comparison = Self::default();
        for (name, group) in groups {
            let count = billed.remove(&name).unwrap_or(0);
            comparison.settle(&name, group, count, by_image);
        }
        for (name, count) in billed.into_iter().filter(|(_, count)| *count > 0) {
            comparison.foreign(&name, count);
        }
        comparison.forgotten += nameless.certain;
        comparison.undecided += nameless.in_doubt();
        comparison
    }

    fn settle(&mut self, name: &Name, mut group: Group, billed: u64, by_image: bool) {
        let agreed = billed.min(group.certain);
        self.agreed += agreed;
        self.forgotten += group.certain - agreed;
        let (left, doubtful) = (billed - agreed, group.in_doubt());
        if left >= doubtful {
            self.proven_billed += doubtful;
            self.foreign(name, left - doubtful);
        } else if left == 0 {
            self.undecided += group.renamed;
            self.unbilled.extend(group.doubtful);
        } else if by_image {
            self.proven_billed += left;
            self.unbilled.extend(group.doubtful.split_off(left as usize));
        } else {
            self.undecided += doubtful;
        }
    }

    fn foreign(&mut self, name: &Name, count: u64) {
        self.foreign += count;
        if count > 0 && self.foreign_names.len() < SHOWN {
            self.foreign_names.push(format!("{name} ({count})"));
        }
    }
}

impl Group {
    fn in_doubt(&self) -> u64 {
        self.doubtful.len() as u64 + self.renamed
    }

    fn add(&mut self, charge: &Charge, permit: Option<Permit>, by_image: bool) {
        match permit {
            None => self.certain += 1,
            Some(permit) if by_image || charge.sends < 2 => self.doubtful.push(permit),
            Some(_) => self.renamed += 1,
        }
    }
}

/// Visits every charge that was or may have been billed, with its permit when it is in doubt.
fn charges(entries: &[Entry], mut visit: impl FnMut(&Entry, &Charge, Option<Permit>)) {
    for entry in entries {
        for charge in &entry.charges {
            let permit = Permit {
                key: entry.key,
                epoch: charge.epoch,
                charge: charge.number,
            };
            match charge.state {
                State::Reserved => {}
                State::Sent | State::Ambiguous(_) | State::Renewed(_) => visit(entry, charge, Some(permit)),
                State::Spent(_) | State::Committed => visit(entry, charge, None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillhouse_core::plan::Arm;
    use stillhouse_core::{Key, Sample};
    use stillhouse_ledger::{Cause, RequestId};

    fn charge(number: u32, request: u128, state: State) -> Charge {
        Charge {
            number,
            sends: 1,
            epoch: 1,
            request: Some(RequestId(request)),
            state,
        }
    }

    fn doubt() -> State {
        State::Ambiguous(Cause::new("cut"))
    }

    fn entry(at: u8, charges: Vec<Charge>) -> Entry {
        Entry {
            key: Key([at; 32]),
            sample: Sample::Seed(u32::from(at)),
            arm: Arm::Active,
            charges,
            imported: false,
            label: None,
        }
    }

    fn request(id: u128) -> String {
        RequestId(id).to_string()
    }

    /// Two answered and one in doubt in request 7, one in doubt in 8, one spent in 9.
    fn entries() -> Vec<Entry> {
        vec![
            entry(1, vec![charge(1, 7, State::Committed)]),
            entry(2, vec![charge(1, 7, State::Committed)]),
            entry(3, vec![charge(1, 7, doubt())]),
            entry(4, vec![charge(2, 8, State::Sent)]),
            entry(5, vec![charge(1, 9, State::Spent(Cause::new("nonsense")))]),
            entry(6, vec![charge(1, 0, State::Reserved)]),
        ]
    }

    fn by_request(billed: &[(String, u64)]) -> Comparison {
        let invoice = Invoice::Requests(billed.iter().cloned().collect());
        Comparison::of(&entries(), &invoice, |_| None)
    }

    fn unbilled(comparison: &Comparison) -> Vec<u8> {
        comparison.unbilled.iter().map(|permit| permit.key.0[0]).collect()
    }

    #[test]
    fn a_bill_by_request_settles_what_was_in_doubt() {
        let all = by_request(&[(request(7), 3), (request(8), 1), (request(9), 1)]);
        assert_eq!((all.agreed, all.proven_billed, all.foreign), (3, 2, 0));
        assert_eq!(unbilled(&all), [] as [u8; 0]);
        let some = by_request(&[(request(7), 2), (request(9), 1)]);
        assert_eq!((some.agreed, some.proven_billed, some.forgotten), (3, 0, 0));
        assert_eq!(unbilled(&some), [3, 4]);
        let none = by_request(&[]);
        assert_eq!((none.agreed, none.forgotten), (0, 3));
        assert_eq!(unbilled(&none), [3, 4]);
    }

    #[test]
    fn what_the_ledger_does_not_know_is_told_by_name() {
        let comparison = by_request(&[(request(7), 5), (request(9), 1), ("another".into(), 4)]);
        assert_eq!(
            (comparison.agreed, comparison.proven_billed, comparison.foreign),
            (3, 1, 6)
        );
        let names = [
            format!("request {:?} (2)", request(7)),
            "request \"another\" (4)".to_owned(),
        ];
        assert_eq!(comparison.foreign_names, names);
    }

    #[test]
    fn of_a_request_that_was_billed_in_part_nobody_knows_which() {
        let both = vec![
            entry(1, vec![charge(1, 7, doubt())]),
            entry(2, vec![charge(1, 7, doubt())]),
        ];
        let invoice = Invoice::Requests([(request(7), 1)].into());
        let comparison = Comparison::of(&both, &invoice, |_| None);
        assert_eq!((comparison.undecided, comparison.proven_billed), (2, 0));
        assert!(comparison.unbilled.is_empty());
    }

    #[test]
    fn of_a_charge_that_two_requests_sent_the_last_ones_name_proves_only_that_it_was_billed() {
        let mut renewed = charge(1, 8, doubt());
        renewed.sends = 2;
        let entries = vec![entry(1, vec![renewed])];
        let of = |invoice: Invoice| Comparison::of(&entries, &invoice, |entry| Some(entry.key.0));
        let absent = of(Invoice::Requests([].into()));
        assert_eq!((absent.undecided, absent.unbilled.len()), (1, 0));
        assert_eq!(of(Invoice::Requests([(request(8), 1)].into())).proven_billed, 1);
        assert_eq!(of(Invoice::Images([].into())).unbilled.len(), 1);
    }

    #[test]
    fn an_image_sent_twice_and_billed_once_gives_one_charge_back() {
        let twice = vec![entry(1, vec![charge(1, 7, doubt()), charge(2, 8, doubt())])];
        let invoice = Invoice::Images([([1; 32], 1), ([9; 32], 2)].into());
        let comparison = Comparison::of(&twice, &invoice, |entry| Some(entry.key.0));
        assert_eq!((comparison.proven_billed, comparison.foreign), (1, 2));
        assert_eq!(comparison.unbilled.len(), 1);
        assert_eq!(comparison.foreign_names, [format!("image {} (2)", "09".repeat(32))]);
    }

    #[test]
    fn a_total_decides_about_all_or_nothing() {
        let of = |total| Comparison::of(&entries(), &Invoice::Total(total), |_| None);
        assert_eq!((of(5).agreed, of(5).proven_billed, of(5).foreign), (3, 2, 0));
        assert_eq!((of(4).agreed, of(4).undecided, of(4).foreign), (3, 2, 0));
        assert_eq!((of(3).agreed, of(3).undecided, of(3).forgotten), (3, 2, 0));
        assert_eq!((of(2).agreed, of(2).undecided, of(2).forgotten), (2, 2, 1));
        assert_eq!((of(9).agreed, of(9).proven_billed, of(9).foreign), (3, 2, 4));
        assert!(of(3).unbilled.is_empty(), "a total proves nothing about one charge");
    }

    #[test]
    fn nothing_is_counted_twice_or_forgotten() {
        for billed in 0..7 {
            for other in 0..3 {
                let comparison = by_request(&[(request(7), billed), (request(8), other)]);
                let unbilled = comparison.unbilled.len() as u64;
                let (mine, doubt) = (
                    comparison.agreed + comparison.forgotten,
                    comparison.proven_billed + comparison.undecided,
                );
                assert_eq!((mine, doubt + unbilled), (3, 2));
                let on_bill = comparison.agreed + comparison.proven_billed + comparison.foreign;
                assert!(on_bill <= billed + other && billed + other <= on_bill + comparison.undecided);
            }
        }
    }
}
