//! Ways to get the protocol wrong, each made of the right one by tampering around it.

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The budget is not looked at.
    NoBudgetCheck,
    /// An answer is given before the change is on disk: a crash loses the last group.
    NoFsync,
    /// A coordinator goes on writing when another life began.
    NoEpochCheck,
    /// Who announces a permit may send, whoever announced it before.
    NoCompareAndSet,
    /// Anybody's report on a charge counts.
    NoHolderCheck,
    /// What the queue delivers is sent, whatever the ledger says.
    QueueIsTruth,
    /// What was sent when the process died counts as not sent.
    ForgetSent,
    /// What was reserved when the process died stays reserved for ever.
    KeepReserved,
    /// A timeout gives the permit back.
    ReleaseOnTimeout,
    /// Any status is a proof.
    AnyProof,
    /// A proof gives nothing back.
    NoRefund,
    /// Ambiguous queries are sent again under hold.
    ResendUnderHold,
    /// A number is given out again after its permit was given back.
    ReuseNumbers,
    /// Reports of an earlier life count.
    HeedOldReports,
    /// Late labels are thrown away.
    DropLateLabels,
    /// Late labels are thrown away once their key was sent again.
    DropOvertakenLabels,
    /// A label needs no permit.
    CommitUnknown,
    /// A label that is reported twice is charged twice.
    ChargeTwice,
    /// Who asks again is told that it may not send.
    ForgetHolder,
    /// A question that was delivered late marks a renewed charge for nobody.
    HeedLateQuestions,
    /// Attempts with an idempotency key are not counted.
    RenewForever,
    /// A renewed charge is void after a crash, as if it had only been reserved.
    ForgetRenewed,
    /// A proof about the last attempt counts for all of them.
    RefundRenewed,
    /// A permit of an earlier life of a renewed charge is as good as the new one.
    AnyLife,
    /// The invoice gives back what is still in flight.
    AcquitSent,
    /// Labels of other jobs are charged.
    ChargeImports,
    /// A raised budget is forgotten by a crash.
    ForgetRaise,
}

/// All of them.
pub(crate) const FAULTS: [Fault; 27] = [
    Fault::NoBudgetCheck,
    Fault::NoFsync,
    Fault::NoEpochCheck,
    Fault::NoCompareAndSet,
    Fault::NoHolderCheck,
    Fault::QueueIsTruth,
    Fault::ForgetSent,
    Fault::KeepReserved,
    Fault::ReleaseOnTimeout,
    Fault::AnyProof,
    Fault::NoRefund,
    Fault::ResendUnderHold,
    Fault::ReuseNumbers,
    Fault::HeedOldReports,
    Fault::DropLateLabels,
    Fault::DropOvertakenLabels,
    Fault::CommitUnknown,
    Fault::ChargeTwice,
    Fault::ForgetHolder,
    Fault::HeedLateQuestions,
    Fault::RenewForever,
    Fault::ForgetRenewed,
    Fault::RefundRenewed,
    Fault::AnyLife,
    Fault::AcquitSent,
    Fault::ChargeImports,
    Fault::ForgetRaise,
];
