//! Gateways, up to the moment when bytes leave.

use stillhouse_ledger::permit::{OnAmbiguous, Permit, Proof, RequestId, State};

use super::fault::Fault;
use super::step::{Fate, Heard, Source};
use super::{ATTEMPTS, Asked, Check, Stage, World, check, number, pick};

impl World {
    /// A gateway gets a reference, and may hold it for ever.
    pub(crate) fn lease(&mut self, source: Source, at: usize) -> Option<Permit> {
        if source == Source::Held {
            return pick(&self.held, at);
        }
        let permit = pick(&self.queue, at)?;
        if source == Source::Queue {
            self.queue.remove(at % self.queue.len());
        }
        self.held.push(permit);
        Some(permit)
    }

    fn request(&self) -> RequestId {
        RequestId(self.requests.len() as u128 + 1)
    }

    /// A new request announces a permit, and sends when it hears that it may.
    pub(crate) fn ask(&mut self, permit: Permit, heard: Heard, fate: Fate) -> Check {
        let id = self.request();
        let (accepted, answered) = self.announce(id, permit)?;
        let stage = match heard {
            Heard::Nothing => Stage::Unheard,
            Heard::AndSends | Heard::AndStops if answered && accepted => Stage::Cleared,
            Heard::AndSends | Heard::AndStops if answered => Stage::Over,
            Heard::AndSends | Heard::AndStops => Stage::Unheard,
        };
        self.requests.push(Asked { id, permit, stage });
        if stage == Stage::Cleared {
            self.clear(permit)?;
            if heard == Heard::AndSends {
                return self.leave(self.requests.len() - 1, fate);
            }
        }
        Ok(())
    }

    /// Asks the ledger whether `id` may send; the second is whether there is an answer.
    fn announce(&mut self, id: RequestId, permit: Permit) -> Result<(bool, bool), &'static str> {
        self.announced.insert((permit.key, permit.charge));
        let mut named = permit;
        if self.has(Fault::AnyLife) {
            named.epoch = self.book().epoch();
        }
        // The same reference may be in one delivery twice.
        let accepted = self.book().mark_sent(id, &[named, named]);
        check(accepted.len() < 2, "a permit was accepted twice in one request")?;
        let is_taken = self.state(permit) == Some(&State::Sent) && permit.epoch == self.books[self.who].epoch();
        let accepted =
            !accepted.is_empty() || self.has(Fault::QueueIsTruth) || (self.has(Fault::NoCompareAndSet) && is_taken);
        Ok((accepted, self.write()))
    }

    /// A request hears that it may send.
    fn clear(&self, permit: Permit) -> Check {
        let current = permit.epoch == self.newest().epoch();
        check(current, "a permit of an earlier life may be sent")
    }

    /// Bytes leave, and the teacher bills what it likes.
    fn leave(&mut self, at: usize, fate: Fate) -> Check {
        self.requests[at].stage = Stage::Sent(fate);
        let permit = self.requests[at].permit;
        let charge = (permit.key, permit.charge);
        let same = self
            .requests
            .iter()
            .filter(|asked| (asked.permit.key, asked.permit.charge) == charge);
        let fates = same.filter_map(|asked| match asked.stage {
            Stage::Sent(fate) => Some(fate),
            Stage::Unheard | Stage::Cleared | Stage::Over => None,
        });
        let keyed = matches!(self.policy, OnAmbiguous::IdempotencyKey { .. });
        let (counted, most) = if keyed {
            let unproven = fates.filter(|fate| *fate != Fate::Refused);
            (unproven.count(), 1 + ATTEMPTS as usize)
        } else {
            (fates.count(), 1)
        };
        check(counted <= most, "a permit was sent too often")?;
        if fate.is_billed() {
            let is_new = self.billed_charges.insert(charge);
            // A teacher that knows idempotency keys bills each once.
            self.billed[number(&permit.key)] += u64::from(is_new || !keyed);
        }
        Ok(())
    }

    pub(crate) fn ask_again(&mut self, at: usize, fate: Fate) -> Check {
        if self.requests.is_empty() {
            return Ok(());
        }
        let at = at % self.requests.len();
        let Asked { id, permit, stage } = self.requests[at];
        let holds = |world: &Self| {
            let charge = world.charge(permit);
            charge.is_some_and(|charge| charge.state == State::Sent && charge.request == Some(id))
        };
        let held = holds(self) && permit.epoch == self.book().epoch();
        let was_renewed = matches!(self.state(permit), Some(State::Renewed(_)));
        let used = self.charge(permit).is_some_and(|charge| charge.request == Some(id));
        let (mut accepted, answered) = self.announce(id, permit)?;
        if was_renewed && used && self.has(Fault::HeedLateQuestions) {
            self.tamper(permit, |charge| charge.state = State::Sent);
        }
        accepted &= !self.has(Fault::ForgetHolder);
        check(!(held && answered) || accepted, "who asked again got another answer")?;
        check(
            !(was_renewed && used && holds(self)),
            "a question that came late marked a charge for nobody",
        )?;
        if stage == Stage::Unheard && answered {
            self.requests[at].stage = Stage::Over;
            if accepted {
                self.clear(permit)?;
                return self.leave(at, fate);
            }
        }
        Ok(())
    }

    pub(crate) fn wake_up(&mut self, at: usize, fate: Fate) -> Check {
        let is_cleared = |at: &usize| self.requests[*at].stage == Stage::Cleared;
        let cleared: Vec<usize> = (0..self.requests.len()).filter(is_cleared).collect();
        pick(&cleared, at).map_or(Ok(()), |at| self.leave(at, fate))
    }

    pub(crate) fn give_up(&mut self, at: usize) -> Check {
        let is_unsent = |at: &usize| matches!(self.requests[*at].stage, Stage::Unheard | Stage::Cleared);
        let unsent: Vec<usize> = (0..self.requests.len()).filter(is_unsent).collect();
        let Some(at) = pick(&unsent, at) else { return Ok(()) };
        self.requests[at].stage = Stage::Over;
        let Asked { id, permit, .. } = self.requests[at];
        self.release(id, permit, Proof::NeverConnected)
    }

    pub(crate) fn impostor(&mut self, at: usize) -> Check {
        let Some((Asked { permit, .. }, _)) = self.sent(at) else {
            return Ok(());
        };
        let holder = self.charge(permit).and_then(|charge| charge.request);
        let id = match holder {
            Some(holder) if self.has(Fault::NoHolderCheck) => holder,
            _ => RequestId(0),
        };
        let before = self.charge(permit).cloned();
        self.release(id, permit, Proof::NeverConnected)?;
        let is_sent = before.as_ref().is_some_and(|charge| charge.state == State::Sent);
        check(
            !is_sent || self.charge(permit) == before.as_ref(),
            "a request changed what another one had sent",
        )
    }
}
