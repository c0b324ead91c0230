//! What every queue must do. Each implementation runs this suite on the real thing.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use stillhouse_core::image::ImageShape;
use stillhouse_core::plan::Arm;
use stillhouse_core::{Fingerprint, Key, Sample};

use crate::{Lease, LeaseId, Queue, QueueError, Reference};

/// Runs the whole suite on queues that `make` makes, each empty and with room for so many waiting
/// references at least.
///
/// # Panics
/// When the queue does not conform; the message says how.
pub async fn run<Q, F, Made>(make: F)
where
    Q: Queue + 'static,
    F: Fn(usize) -> Made,
    Made: Future<Output = Q>,
{
    delivers_in_order_and_forgets_what_was_acknowledged(make(64).await).await;
    delivers_again_what_was_given_back(make(64).await).await;
    shares_between_consumers_without_doubles(Arc::new(make(16).await)).await;
    ignores_unknown_deliveries(make(64).await).await;
    tells_those_who_wait_that_it_is_closed(Arc::new(make(4).await)).await;
}

fn reference(number: u32) -> Reference {
    let shape = ImageShape {
        channels: 1,
        height: 1,
        width: 4,
    };
    Reference {
        key: Key::of(Fingerprint([7; 32]), shape, &number.to_le_bytes()),
        sample: Sample::Seed(number),
        epoch: 1,
        charge: 1,
        arm: Arm::Active,
    }
}

fn references(numbers: std::ops::Range<u32>) -> Vec<Reference> {
    numbers.map(reference).collect()
}

fn ids(leases: &[Lease]) -> Vec<LeaseId> {
    leases.iter().map(|lease| lease.id).collect()
}

async fn delivers_in_order_and_forgets_what_was_acknowledged(queue: impl Queue) {
    queue.push(references(0..10)).await.expect("open");
    assert_eq!(queue.depth().await, 10, "waiting references count");
    let first = queue.lease(4).await.expect("open");
    let got: Vec<Reference> = first.iter().map(|lease| lease.reference).collect();
    assert_eq!(got, references(0..4), "first in, first out");
    assert_eq!(queue.depth().await, 10, "delivered references count until acknowledged");
    queue.ack(&ids(&first)).await;
    assert_eq!(queue.depth().await, 6, "acknowledged references are gone");
    let rest = queue.lease(100).await.expect("open");
    assert_eq!(rest.len(), 6, "a lease takes what there is");
}

async fn delivers_again_what_was_given_back(queue: impl Queue) {
    queue.push(references(0..6)).await.expect("open");
    let first = queue.lease(3).await.expect("open");
    queue.nack(&ids(&first)).await;
    let again = queue.lease(6).await.expect("open");
    let got: Vec<Reference> = again.iter().map(|lease| lease.reference).collect();
    assert_eq!(got, references(0..6), "what was given back comes next, in its order");
    let stale: HashSet<LeaseId> = ids(&first).into_iter().collect();
    assert!(
        ids(&again).iter().all(|id| !stale.contains(id)),
        "a delivery is a new one"
    );
}

async fn consume(queue: Arc<impl Queue>) -> Vec<Sample> {
    let mut seen = Vec::new();
    while let Ok(leases) = queue.lease(7).await {
        seen.extend(leases.iter().map(|lease| lease.reference.sample));
        queue.ack(&ids(&leases)).await;
        tokio::task::yield_now().await;
    }
    seen
}

async fn shares_between_consumers_without_doubles(queue: Arc<impl Queue + 'static>) {
    const ALL: u32 = 500;
    let consumers: Vec<_> = (0..4).map(|_| tokio::spawn(consume(queue.clone()))).collect();
    queue
        .push(references(0..ALL))
        .await
        .expect("more than there is room for, but consumers make room");
    while queue.depth().await > 0 {
        tokio::task::yield_now().await;
    }
    queue.close();
    let mut counts: BTreeMap<Sample, u32> = BTreeMap::new();
    for consumer in consumers {
        for sample in consumer.await.expect("consumers do not panic") {
            *counts.entry(sample).or_default() += 1;
        }
    }
    assert_eq!(counts.len(), ALL as usize, "every reference is delivered");
    assert!(
        counts.values().all(|count| *count == 1),
        "and acknowledged ones only once"
    );
}

async fn ignores_unknown_deliveries(queue: impl Queue) {
    queue.push(references(0..2)).await.expect("open");
    queue.ack(&[LeaseId(u64::MAX)]).await;
    queue.nack(&[LeaseId(u64::MAX)]).await;
    let leases = queue.lease(5).await.expect("open");
    queue.ack(&ids(&leases)).await;
    queue.nack(&ids(&leases)).await;
    assert_eq!(queue.depth().await, 0, "an acknowledged delivery cannot be given back");
}

async fn tells_those_who_wait_that_it_is_closed(queue: Arc<impl Queue + 'static>) {
    let waiting = queue.clone();
    let consumer = tokio::spawn(async move { waiting.lease(1).await.map(|leases| leases.len()) });
    tokio::task::yield_now().await;
    queue.close();
    assert_eq!(
        consumer.await.expect("no panic"),
        Err(QueueError::Closed),
        "a waiting consumer is told"
    );
    assert_eq!(
        queue.push(references(0..1)).await,
        Err(QueueError::Closed),
        "nothing more is taken"
    );
}
