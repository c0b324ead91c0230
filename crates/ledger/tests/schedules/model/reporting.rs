//! What comes back, and what people do about the rest.

use stillhouse_ledger::permit::{Cause, Charge, Permit, Proof, RequestId, State};

use super::fault::Fault;
use super::step::Fate;
use super::{Asked, Check, Stage, World, check, key, number, pick};

impl World {
    /// A request that was sent, and what really happened.
    pub(crate) fn sent(&self, at: usize) -> Option<(Asked, Fate)> {
        let sent = self.requests.iter().filter_map(|asked| match asked.stage {
            Stage::Sent(fate) => Some((*asked, fate)),
            Stage::Unheard | Stage::Cleared | Stage::Over => None,
        });
        pick(&sent.collect::<Vec<_>>(), at)
    }

    pub(crate) fn report(&mut self, at: usize) -> Check {
        let Some((asked, fate)) = self.sent(at) else {
            return Ok(());
        };
        match fate {
            Fate::Labelled => self.label(asked.permit),
            Fate::Nonsense => self.guarded(asked.id, asked.permit, |world| {
                let nonsense = Cause::new("nonsense");
                drop(world.book().spent(asked.id, asked.permit, &nonsense));
                world.write();
            }),
            Fate::Refused => self.refused(asked),
            Fate::Silent { .. } => self.time_out(asked),
        }
    }

    /// A report about an earlier life, or about what another request sent, changes nothing (I5).
    fn guarded(&mut self, id: RequestId, permit: Permit, report: impl FnOnce(&mut Self)) -> Check {
        let before = self.book().record(&permit.key).cloned();
        let is_other = self
            .charge(permit)
            .is_some_and(|charge| charge.state == State::Sent && charge.request != Some(id));
        let is_void = permit.epoch != self.book().epoch() || is_other;
        report(self);
        let same = self.book().record(&permit.key) == before.as_ref();
        check(!is_void || same, "a report that is void changed something")
    }

    fn label(&mut self, permit: Permit) -> Check {
        let is_ambiguous = matches!(self.state(permit), Some(State::Ambiguous(_)));
        let latest = self.book().record(&permit.key).and_then(|record| record.charges.last());
        let is_overtaken = latest.is_some_and(|charge| charge.number != permit.charge);
        let dropped =
            (self.has(Fault::DropLateLabels) && is_ambiguous) || (self.has(Fault::DropOvertakenLabels) && is_overtaken);
        let again = dropped || self.book().commit(permit).is_err();
        if !self.write() {
            return Ok(());
        }
        if again && self.has(Fault::ChargeTwice) {
            self.tamper_record(permit.key, |record| {
                record.charges.extend(record.charges.last().cloned())
            });
        }
        check(
            self.is_labelled(&permit.key),
            "a label that was paid for was thrown away",
        )?;
        self.kept[number(&permit.key)] = true;
        Ok(())
    }

    fn refused(&mut self, asked: Asked) -> Check {
        let Asked { id, permit, .. } = asked;
        let charge = self.charge(permit).cloned();
        if self.has(Fault::NoRefund) {
            self.book().spent(id, permit, &Cause::new("refused")).ok();
        }
        self.release(id, permit, Proof::Refused { status: 429 })?;
        let in_flight =
            |charge: &Charge| charge.state == State::Sent && charge.request == Some(id) && charge.epoch == permit.epoch;
        let Some(before) = charge.filter(in_flight) else {
            return Ok(());
        };
        if before.sends > 1 && self.has(Fault::RefundRenewed) {
            self.take_back(permit);
        }
        let is_current = permit.epoch == self.book().epoch();
        let given_back = self.charge(permit).is_none();
        check(
            !is_current || given_back == (before.sends == 1),
            "a proof gave back too little or too much",
        )
    }

    pub(crate) fn release(&mut self, id: RequestId, permit: Permit, proof: Proof) -> Check {
        self.guarded(id, permit, |world| {
            let released = world.book().release(id, permit, proof).is_ok();
            let written = world.write();
            let is_gone = world.charge(permit).is_none();
            if released && written && is_gone && world.has(Fault::ReuseNumbers) {
                world.tamper_record(permit.key, |record| record.issued -= 1);
            }
            if world.has(Fault::HeedOldReports) {
                world.take_back(permit);
            }
        })
    }

    pub(crate) fn time_out(&mut self, Asked { id, permit, .. }: Asked) -> Check {
        self.guarded(id, permit, |world| {
            let cause = Cause::new("no answer in time");
            let noted = world.book().ambiguous(id, permit, &cause).is_ok();
            if world.write() && noted && world.has(Fault::ReleaseOnTimeout) {
                world.take_back(permit);
            }
        })
    }

    /// The teacher fails in the middle of its work: whatever the fate, nobody can know.
    pub(crate) fn server_error(&mut self, Asked { id, permit, .. }: Asked) -> Check {
        self.guarded(id, permit, |world| {
            let noted = world.book().release(id, permit, Proof::Refused { status: 500 }).is_ok();
            if world.write() && noted && world.has(Fault::AnyProof) {
                world.take_back(permit);
            }
        })
    }

    /// A gateway returns what it does not need, or believes so.
    pub(crate) fn return_unsent(&mut self, permit: Permit) -> Check {
        let before = self.charge(permit).cloned();
        self.book().give_back(permit).ok();
        self.write();
        let open = |charge: &Charge| matches!(charge.state, State::Reserved | State::Renewed(_));
        let was_open = before.as_ref().is_some_and(open);
        check(
            was_open || self.charge(permit) == before.as_ref(),
            "what was sent was given back",
        )
    }

    pub(crate) fn forge(&mut self, name: u8, charge: u32) -> Check {
        let permit = Permit {
            key: key(name),
            epoch: self.book().epoch(),
            charge,
        };
        if self.announced.contains(&(permit.key, charge)) {
            return Ok(());
        }
        let mut taken = self.book().commit(permit).is_ok();
        if self.write() && self.has(Fault::CommitUnknown) {
            self.tamper(permit, |charge| charge.state = State::Committed);
            taken |= self.is_labelled(&permit.key) && !self.kept[usize::from(name)];
        }
        check(!taken, "a label was taken that nobody paid for")
    }

    /// The invoice is closed: what is in doubt, not on it and not about to be sent is given back.
    pub(crate) fn reconcile(&mut self) -> Check {
        let acquits_sent = self.has(Fault::AcquitSent);
        let charges = self.books[self.who].records().flat_map(|(key, record)| {
            record.charges.iter().map(|charge| {
                let permit = Permit {
                    key: *key,
                    epoch: charge.epoch,
                    charge: charge.number,
                };
                (
                    permit,
                    matches!(charge.state, State::Ambiguous(_)),
                    charge.state == State::Sent,
                )
            })
        });
        let unbilled = charges.filter(|(permit, ..)| !self.billed_charges.contains(&(permit.key, permit.charge)));
        let unbilled: Vec<(Permit, bool, bool)> = unbilled.collect();
        for (permit, in_doubt, in_flight) in unbilled {
            if in_doubt && !self.is_about_to_be_sent(permit) {
                drop(self.book().acquit(permit));
            } else if in_flight {
                let refused = self.book().acquit(permit).is_err();
                check(refused, "what is in flight was given back")?;
            }
            if self.write() && in_flight && acquits_sent {
                self.take_back(permit);
            }
        }
        Ok(())
    }

    fn is_about_to_be_sent(&self, permit: Permit) -> bool {
        let same = |asked: &Asked| (asked.permit.key, asked.permit.charge) == (permit.key, permit.charge);
        let mut same = self.requests.iter().filter(|asked| same(asked));
        same.any(|asked| asked.stage == Stage::Cleared)
    }
}
