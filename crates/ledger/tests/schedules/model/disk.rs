//! What survives a crash, and how coordinators start.

use std::collections::HashMap;

use stillhouse_core::Key;
use stillhouse_ledger::book::Book;
use stillhouse_ledger::permit::{Charge, OnAmbiguous, Permit, Record, State};

use super::fault::Fault;
use super::{ATTEMPTS, Check, World, check};

/// The ledger's file: everything that was answered, since nobody gets an answer before fsync.
pub(crate) struct Disk {
    /// The life that began last.
    epoch: u64,
    /// Queries that were granted.
    pub(crate) budget: u64,
    pub(crate) records: HashMap<Key, Record>,
}

impl Disk {
    pub(crate) fn new(budget: u64) -> Self {
        Self {
            epoch: 0,
            budget,
            records: HashMap::new(),
        }
    }
}

impl World {
    /// Starts a coordinator on what is on disk. Others may go on.
    pub(crate) fn start(&mut self) {
        let epoch = self.disk.epoch + 1;
        let mut records = self.disk.records.clone();
        for record in records.values_mut() {
            if self.has(Fault::ForgetSent) {
                record.charges.retain(|charge| charge.state != State::Sent);
            }
            if self.has(Fault::ForgetRenewed) {
                let is_renewed = |charge: &Charge| matches!(charge.state, State::Renewed(_));
                record.charges.retain(|charge| !is_renewed(charge));
            }
            if self.has(Fault::KeepReserved) {
                let reserved = record.charges.iter_mut().filter(|c| c.state == State::Reserved);
                reserved.for_each(|charge| charge.epoch = epoch);
            }
        }
        let budget = if self.has(Fault::NoBudgetCheck) {
            u64::MAX
        } else {
            self.disk.budget
        };
        let book = Book::open(budget, self.believed_policy(), epoch, records.into_iter().collect());
        self.disk.epoch = epoch;
        self.books.push(book);
        self.who = self.books.len() - 1;
        self.store();
    }

    fn believed_policy(&self) -> OnAmbiguous {
        if self.has(Fault::ResendUnderHold) {
            OnAmbiguous::Resend { attempts: ATTEMPTS }
        } else {
            self.policy
        }
    }

    /// Whether the coordinator that is asked may answer: its change is on disk, and no other life
    /// began.
    pub(crate) fn write(&mut self) -> bool {
        if self.dies {
            return self.has(Fault::NoFsync);
        }
        let epoch = self.book().epoch();
        self.is_over = epoch != self.disk.epoch && !self.has(Fault::NoEpochCheck);
        if !self.is_over {
            self.store();
        }
        !self.is_over
    }

    fn store(&mut self) {
        let book = &mut self.books[self.who];
        let changes = book.changes().map(|(_, key, record)| (*key, record.clone()));
        self.disk.records.extend(changes);
        book.forget_changes();
    }

    /// The newest coordinator dies and is started again.
    pub(crate) fn crash(&mut self) -> Check {
        self.books.pop();
        self.start();
        let open = |charge: &Charge| matches!(charge.state, State::Reserved | State::Renewed(_) | State::Sent);
        let mut charges = self.newest().records().flat_map(|(_, record)| &record.charges);
        check(!charges.any(open), "a charge of a dead process is still open")
    }

    pub(crate) fn raise(&mut self) -> Check {
        let budget = self.disk.budget + 1;
        let raised = self.book().raise_budget(budget);
        if self.write() && raised {
            self.budget = budget;
            if !self.has(Fault::ForgetRaise) {
                self.disk.budget = budget;
            }
        }
        Ok(())
    }

    /// The job is started again with a larger budget.
    pub(crate) fn grow(&mut self) -> Check {
        self.budget += 1;
        self.disk.budget = self.budget;
        self.crash()
    }

    /// What a faulty ledger does to a record, on disk as well.
    pub(crate) fn tamper_record(&mut self, key: Key, change: impl FnOnce(&mut Record)) {
        let book = self.book();
        let (budget, epoch) = (book.counts().budget, book.epoch());
        let mut records: HashMap<Key, Record> = book.records().map(|(key, record)| (*key, record.clone())).collect();
        let Some(record) = records.get_mut(&key) else {
            return;
        };
        change(record);
        self.disk.records.insert(key, record.clone());
        let policy = self.believed_policy();
        *self.book() = Book::open(budget, policy, epoch, records.into_iter().collect());
    }

    /// What a faulty ledger does to the charge of a permit.
    pub(crate) fn tamper(&mut self, permit: Permit, change: impl FnOnce(&mut Charge)) {
        self.tamper_record(permit.key, |record| {
            let mut charges = record.charges.iter_mut();
            if let Some(named) = charges.find(|charge| charge.number == permit.charge) {
                change(named);
            }
        });
    }

    pub(crate) fn take_back(&mut self, permit: Permit) {
        self.tamper_record(permit.key, |record| {
            record.charges.retain(|charge| charge.number != permit.charge);
        });
    }
}
