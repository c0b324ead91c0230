//! Makes families of every kind from one description.

use prometheus::core::Collector;
use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts,
    default_registry,
};

/// A metric family as it is documented.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Full name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
    /// Upper bounds of its buckets; none unless it is a histogram.
    pub buckets: &'static [f64],
}

/// Something that a description can be made into.
pub(crate) trait Make: Collector + Clone + 'static {
    const KIND: &'static str;
    fn make(family: &Family) -> prometheus::Result<Self>;
}

fn opts(family: &Family) -> Opts {
    Opts::new(family.name, family.help)
}

macro_rules! make {
    ($type:ty, $kind:literal, |$family:ident| $made:expr) => {
        impl Make for $type {
            const KIND: &'static str = $kind;
            fn make($family: &Family) -> prometheus::Result<Self> {
                $made
            }
        }
    };
}

fn bucketed(family: &Family) -> HistogramOpts {
    HistogramOpts::from(opts(family)).buckets(family.buckets.to_vec())
}

make!(IntCounter, "counter", |family| Self::with_opts(opts(family)));
make!(Counter, "counter", |family| Self::with_opts(opts(family)));
make!(Gauge, "gauge", |family| Self::with_opts(opts(family)));
make!(Histogram, "histogram", |family| Self::with_opts(bucketed(family)));
make!(IntCounterVec, "counter", |family| Self::new(
    opts(family),
    family.labels
));
make!(CounterVec, "counter", |family| Self::new(opts(family), family.labels));
make!(GaugeVec, "gauge", |family| Self::new(opts(family), family.labels));
make!(HistogramVec, "histogram", |family| Self::new(
    bucketed(family),
    family.labels
));

/// A family of the process's registry.
///
/// # Panics
/// When the name is taken or malformed: our own mistake, which a test makes impossible.
pub(crate) fn registered<M: Make>(family: &Family) -> M {
    let made = M::make(family).and_then(|made| {
        default_registry().register(Box::new(made.clone()))?;
        Ok(made)
    });
    made.unwrap_or_else(|error| panic!("{}: {error}", family.name))
}
