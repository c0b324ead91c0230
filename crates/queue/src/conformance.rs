//! What every queue must do. Each implementation runs this suite on the real thing.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use stillhouse_core::image::ImageShape;
use stillhouse_core::plan::Arm;
use stillhouse_core::{Fingerprint, Key, Sample};
use tokio::sync::mpsc;

use crate::{Lease, LeaseId, Queue, QueueError, Reference};

/// Patience with what must happen: far more than any machine needs.
const SOON: Duration = Duration::from_secs(60);

/// When references are delivered again that were given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Returned {
    /// Before all others, in the order given.
    First,
    /// After those that wait already: a stream has no front.
    Later,
}

/// Runs the whole suite on queues that `make` makes, each empty and with room for so many waiting
/// references at least.
///
/// # Panics
/// When the queue does not conform; the message says how.
pub async fn run<Q, F, Made>(returned: Returned, make: F)
where
    Q: Queue + 'static,
    F: Fn(usize) -> Made,
    Made: Future<Output = Q>,
{
    delivers_in_order_and_forgets_what_was_acknowledged(make(64).await).await;
    delivers_again_what_was_given_back(make(64).await, returned).await;
    shares_between_consumers_without_doubles(Arc::new(make(16).await)).await;
    makes_whoever_pushes_wait_for_room(make(8).await).await;
    delivers_again_what_a_dead_consumer_held(make(64).await, returned).await;
    keeps_what_nobody_waits_for_any_more(make(64).await).await;
    ignores_unknown_deliveries(make(64).await).await;
    forgets_everything_when_it_begins_anew(make(64).await).await;
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
        round: 1,
    }
}

/// Distinct references to seed images with these numbers.
#[must_use]
pub fn references(numbers: std::ops::Range<u32>) -> Vec<Reference> {
    numbers.map(reference).collect()
}

/// Names of deliveries.
#[must_use]
pub fn ids(leases: &[Lease]) -> Vec<LeaseId> {
    leases.iter().map(|lease| lease.id).collect()
}

/// What was delivered.
#[must_use]
pub fn delivered(leases: &[Lease]) -> Vec<Reference> {
    leases.iter().map(|lease| lease.reference).collect()
}

/// Leases until `count` references came.
///
/// # Panics
/// When they do not come, or more come.
pub async fn lease_all(queue: &impl Queue, count: usize) -> Vec<Lease> {
    let mut leases: Vec<Lease> = Vec::new();
    while leases.len() < count {
        let more = tokio::time::timeout(SOON, queue.lease(count - leases.len())).await;
        let more = more.unwrap_or_else(|_| panic!("{} of {count} references came", leases.len()));
        leases.extend(more.expect("open"));
    }
    assert_eq!(leases.len(), count, "a lease is no larger than asked for");
    leases
}

async fn delivers_in_order_and_forgets_what_was_acknowledged(queue: impl Queue) {
    queue.push(references(0..10)).await.expect("open");
    assert_eq!(queue.depth().await, Ok(10), "waiting references count");
    let first = queue.lease(4).await.expect("open");
    assert_eq!(delivered(&first), references(0..4), "first in, first out");
    assert_eq!(
        queue.depth().await,
        Ok(10),
        "delivered references count until acknowledged"
    );
    queue.ack(&ids(&first)).await.expect("open");
    assert_eq!(queue.depth().await, Ok(6), "acknowledged references are gone");
    let rest = queue.lease(100).await.expect("open");
    assert_eq!(rest.len(), 6, "a lease takes what there is");
    queue.ack(&ids(&rest)).await.expect("open");
    assert_eq!(queue.depth().await, Ok(0), "nothing is left");
}

async fn delivers_again_what_was_given_back(queue: impl Queue, returned: Returned) {
    queue.push(references(0..6)).await.expect("open");
    let first = queue.lease(3).await.expect("open");
    queue.nack(&ids(&first)).await.expect("open");
    assert_eq!(queue.depth().await, Ok(6), "what was given back counts once");
    let again = lease_all(&queue, 6).await;
    let expected = match returned {
        Returned::First => references(0..6),
        Returned::Later => [references(3..6), references(0..3)].concat(),
    };
    assert_eq!(delivered(&again), expected, "what was given back keeps its order");
    let stale: HashSet<LeaseId> = ids(&first).into_iter().collect();
    assert!(
        ids(&again).iter().all(|id| !stale.contains(id)),
        "a delivery is a new one"
    );
}

async fn delivers_again_what_a_dead_consumer_held(queue: impl Queue, returned: Returned) {
    queue.push(references(0..4)).await.expect("open");
    let held = queue.lease(3).await.expect("open");
    queue.ack(&ids(&held[..1])).await.expect("open");
    assert_eq!(
        queue.reclaim(Duration::from_secs(3_600)).await,
        Ok(0),
        "young deliveries stay"
    );
    assert_eq!(queue.reclaim(Duration::ZERO).await, Ok(2), "acknowledged ones are gone");
    let again = lease_all(&queue, 3).await;
    let expected = match returned {
        Returned::First => references(1..4),
        Returned::Later => [references(3..4), references(1..3)].concat(),
    };
    assert_eq!(delivered(&again), expected, "what was taken back comes oldest first");
    queue.ack(&ids(&held)).await.expect("open");
    queue.nack(&ids(&held)).await.expect("open");
    assert_eq!(queue.depth().await, Ok(3), "the dead consumer's delivery is void");
}

async fn makes_whoever_pushes_wait_for_room(queue: impl Queue) {
    queue.push(references(0..8)).await.expect("there is room");
    let push = queue.push(references(8..12));
    tokio::pin!(push);
    tokio::select! {
        biased;
        pushed = &mut push => panic!("there was no room: {pushed:?}"),
        () = tokio::task::yield_now() => {}
    }
    let make_room = async {
        let leases = lease_all(&queue, 8).await;
        queue.ack(&ids(&leases)).await
    };
    let (pushed, acknowledged) = tokio::join!(push, make_room);
    assert_eq!((pushed, acknowledged), (Ok(()), Ok(())), "there is room now");
    assert_eq!(delivered(&lease_all(&queue, 4).await), references(8..12));
}

async fn keeps_what_nobody_waits_for_any_more(queue: impl Queue) {
    tokio::select! {
        biased;
        leases = queue.lease(1) => panic!("an empty queue delivered {leases:?}"),
        () = tokio::task::yield_now() => {}
    }
    queue.push(references(0..2)).await.expect("open");
    let leases = lease_all(&queue, 2).await;
    assert_eq!(
        delivered(&leases),
        references(0..2),
        "a consumer that gave up waiting took nothing"
    );
}

async fn forgets_everything_when_it_begins_anew(queue: impl Queue) {
    queue.push(references(0..5)).await.expect("open");
    let old = queue.lease(2).await.expect("open");
    queue.restart().await.expect("open");
    assert_eq!(queue.depth().await, Ok(0), "all is forgotten");
    queue.push(references(5..8)).await.expect("open");
    queue.ack(&ids(&old)).await.expect("open");
    queue.nack(&ids(&old)).await.expect("open");
    assert_eq!(queue.depth().await, Ok(3), "deliveries of before are void");
    assert_eq!(delivered(&lease_all(&queue, 3).await), references(5..8));
}

/// Takes and acknowledges until the queue is closed.
async fn consume(queue: Arc<impl Queue>, seen: mpsc::UnboundedSender<Sample>) {
    while let Ok(leases) = queue.lease(7).await {
        for lease in &leases {
            seen.send(lease.reference.sample).expect("the suite listens");
        }
        queue
            .ack(&ids(&leases))
            .await
            .expect("what is closed can be told still");
        tokio::task::yield_now().await;
    }
}

async fn shares_between_consumers_without_doubles(queue: Arc<impl Queue + 'static>) {
    const ALL: u32 = 500;
    // Unbounded: it holds at most what is pushed below, unless the queue is wrong.
    let (seen, mut samples) = mpsc::unbounded_channel();
    let consumers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(consume(queue.clone(), seen.clone())))
        .collect();
    drop(seen);
    let pushed = queue.push(references(0..ALL)).await;
    pushed.expect("more than there is room for, but consumers make room");
    let mut counts: BTreeMap<Sample, u32> = BTreeMap::new();
    while counts.len() < ALL as usize {
        let sample = samples
            .recv()
            .await
            .expect("consumers do not end before the queue is closed");
        *counts.entry(sample).or_default() += 1;
    }
    queue.close();
    for consumer in consumers {
        consumer.await.expect("consumers do not panic");
    }
    while let Some(sample) = samples.recv().await {
        *counts.entry(sample).or_default() += 1;
    }
    assert!(counts.values().all(|count| *count == 1), "each is delivered once");
}

async fn ignores_unknown_deliveries(queue: impl Queue) {
    queue.push(references(0..2)).await.expect("open");
    queue.ack(&[LeaseId(u64::MAX)]).await.expect("open");
    queue.nack(&[LeaseId(u64::MAX)]).await.expect("open");
    let leases = queue.lease(5).await.expect("open");
    queue.ack(&ids(&leases)).await.expect("open");
    queue.nack(&ids(&leases)).await.expect("open");
    assert_eq!(
        queue.depth().await,
        Ok(0),
        "an acknowledged delivery cannot be given back"
    );
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
