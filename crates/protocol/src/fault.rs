//! Rules that are broken on purpose, so that tests show that they would notice.

/// Rules that the random schedules break on purpose, one at a time, to see that they notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Reports count whatever fence they quote (I5).
    IgnoreFence,
    /// A training ends when rank 0 did (I6).
    EndEarly,
    /// Pairs may be chosen again.
    ForgetAsked,
    /// The shard of a lost worker counts as scanned (I4).
    DropLostShard,
    /// A world that lost a rank waits for it.
    KeepLostRank,
    /// The job begins with the first worker.
    BeginAlone,
    /// A world may have more ranks than shards.
    CrowdWorld,
    /// Workers beyond the most that are wanted score too.
    UseSpares,
    /// Workers are not given the generated images.
    KeepImages,
    /// The report of every copy of a shard counts (I4).
    CountCopies,
    /// What a capped report left out counts as scanned (I4).
    DropRest,
    /// Ceilings, which are estimates, are taken for certain (I4).
    TrustCeilings,
    /// A shard that a worker had when its scan was kept counts as scanned (I4).
    KeepGiven,
    /// Workers that have a copy of what is done are not let go.
    KeepCopies,
}

/// The rule that is broken, if one is; never outside this crate's own tests.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Planted(#[cfg(test)] pub(crate) Option<Fault>);

impl Planted {
    /// Whether this one is.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "only tests plant faults"))]
    pub(crate) fn is(self, fault: Fault) -> bool {
        #[cfg(test)]
        return self.0 == Some(fault);
        #[cfg(not(test))]
        {
            let _ = fault;
            false
        }
    }
}
