//! Several handles of one queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use stillhouse_queue::conformance::{delivered, ids, lease_all, references};
use stillhouse_queue::{Queue, QueueError, RedisQueue, Reference};
use tokio::sync::mpsc;

use crate::server::Server;

const STREAM: &str = "stillhouse:{test}:queue";

/// Consumers of the group and what each holds.
async fn consumers(server: &Server) -> HashMap<String, u64> {
    let list: Vec<HashMap<String, redis::Value>> = server.ask(&["XINFO", "CONSUMERS", STREAM, "gateways"]).await;
    let of = |mut fields: HashMap<String, redis::Value>| {
        let mut field = |name: &str| fields.remove(name).unwrap();
        let name = redis::from_redis_value(field("name")).unwrap();
        (name, redis::from_redis_value(field("pending")).unwrap())
    };
    list.into_iter().map(of).collect()
}

async fn consume(queue: Arc<RedisQueue>, seen: mpsc::Sender<Reference>) {
    while let Ok(leases) = queue.lease(50).await {
        queue.ack(&ids(&leases)).await.unwrap();
        for reference in delivered(&leases) {
            seen.send(reference).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_consumers_share_a_queue_that_is_smaller_than_what_passes_through() {
    let Some(server) = Server::start() else { return };
    let mut config = server.config();
    config.capacity = 1_000;
    let dispatcher = RedisQueue::open_as_dispatcher(config, 1).await.unwrap();
    let (sender, mut seen) = mpsc::channel(1_000);
    let mut queues = vec![];
    for _ in 0..3 {
        let queue = Arc::new(server.consumer().await);
        tokio::spawn(consume(queue.clone(), sender.clone()));
        queues.push(queue);
    }
    let all = references(0..10_000);
    let push = dispatcher.push(all.clone());
    let receive = async {
        let mut counts: HashMap<Reference, u32> = HashMap::new();
        while counts.len() < all.len() {
            *counts.entry(seen.recv().await.unwrap()).or_default() += 1;
        }
        counts
    };
    let (pushed, counts) = tokio::join!(push, receive);
    assert_eq!(pushed, Ok(()));
    assert!(counts.values().all(|count| *count == 1), "each is delivered once");
    assert_eq!(dispatcher.depth().await, Ok(0));
    for queue in queues {
        queue.leave().await;
    }
    assert!(
        consumers(&server).await.is_empty(),
        "who leaves does not stay in the group"
    );
}

/// A process that dies with what it holds.
fn die_holding(config: stillhouse_queue::RedisConfig, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let queue = runtime.block_on(async {
        let queue = RedisQueue::open(config).await.unwrap();
        lease_all(&queue, count).await;
        queue
    });
    // Its tasks never run again.
    runtime.shutdown_background();
    drop(queue);
}

#[tokio::test]
async fn what_a_dead_consumer_held_is_reclaimed_and_the_consumer_removed() {
    let Some(server) = Server::start() else { return };
    let dispatcher = server.dispatcher().await;
    dispatcher.push(references(0..100)).await.unwrap();
    let config = server.config();
    tokio::task::spawn_blocking(move || die_holding(config, 10))
        .await
        .unwrap();
    assert_eq!(consumers(&server).await.into_values().collect::<Vec<_>>(), [1]);
    assert_eq!(dispatcher.reclaim(Duration::from_secs(3_600)).await, Ok(0));
    assert_eq!(dispatcher.depth().await, Ok(100), "nothing was acknowledged");
    assert_eq!(
        dispatcher.reclaim(Duration::ZERO).await,
        Ok(64),
        "a whole block comes back"
    );
    assert!(consumers(&server).await.is_empty());
    assert_eq!(dispatcher.depth().await, Ok(100), "nothing counts twice");
    let again = lease_all(&server.consumer().await, 100).await;
    assert_eq!(delivered(&again), [references(64..100), references(0..64)].concat());
}

#[tokio::test]
async fn a_slow_consumer_ends_nothing_that_was_reclaimed_meanwhile() {
    let Some(server) = Server::start() else { return };
    let dispatcher = server.dispatcher().await;
    let slow = server.consumer().await;
    dispatcher.push(references(0..4)).await.unwrap();
    let held = lease_all(&slow, 4).await;
    assert_eq!(dispatcher.reclaim(Duration::ZERO).await, Ok(4));
    slow.ack(&ids(&held)).await.unwrap();
    assert_eq!(dispatcher.depth().await, Ok(4));
    let again = lease_all(&slow, 4).await;
    slow.ack(&ids(&again)).await.unwrap();
    assert_eq!(dispatcher.depth().await, Ok(0));
}

#[tokio::test]
async fn many_old_deliveries_are_reclaimed_page_after_page() {
    let Some(server) = Server::start() else { return };
    let mut config = server.config();
    config.block = 1;
    let dispatcher = RedisQueue::open_as_dispatcher(config, 1).await.unwrap();
    dispatcher.push(references(0..350)).await.unwrap();
    let slow = server.consumer().await;
    lease_all(&slow, 350).await;
    assert_eq!(dispatcher.reclaim(Duration::ZERO).await, Ok(350));
    let other = server.consumer().await;
    assert_eq!(delivered(&lease_all(&other, 350).await), references(0..350));
}

#[tokio::test]
async fn who_leaves_gives_back_what_nobody_took() {
    let Some(server) = Server::start() else { return };
    let dispatcher = server.dispatcher().await;
    dispatcher.push(references(0..64)).await.unwrap();
    let leaving = server.consumer().await;
    let taken = lease_all(&leaving, 10).await;
    leaving.ack(&ids(&taken)).await.unwrap();
    leaving.leave().await;
    assert_eq!(leaving.lease(1).await, Err(QueueError::Closed));
    assert_eq!(dispatcher.depth().await, Ok(54));
    let rest = lease_all(&server.consumer().await, 54).await;
    assert_eq!(delivered(&rest), references(10..64));
}

#[tokio::test]
async fn a_consumer_may_come_before_the_dispatcher() {
    let Some(server) = Server::start() else { return };
    let consumer = Arc::new(server.consumer().await);
    assert_eq!(consumer.depth().await, Err(QueueError::Lost));
    assert_eq!(consumer.push(references(0..1)).await, Err(QueueError::Superseded));
    assert_eq!(consumer.restart().await, Err(QueueError::Superseded));
    let early = consumer.clone();
    let waiting = tokio::spawn(async move { lease_all(&*early, 3).await });
    tokio::task::yield_now().await;
    let dispatcher = server.dispatcher().await;
    dispatcher.push(references(0..3)).await.unwrap();
    assert_eq!(delivered(&waiting.await.unwrap()), references(0..3));
    assert_eq!(consumer.depth().await, Ok(3));
}

#[tokio::test]
async fn the_older_of_two_dispatchers_is_superseded() {
    let Some(server) = Server::start() else { return };
    let older = RedisQueue::open_as_dispatcher(server.config(), 9).await.unwrap();
    older.push(references(0..5)).await.unwrap();
    let newer = RedisQueue::open_as_dispatcher(server.config(), 10).await.unwrap();
    assert_eq!(newer.depth().await, Ok(0), "a new life begins empty");
    newer.push(references(5..8)).await.unwrap();
    assert_eq!(older.push(references(0..5)).await, Err(QueueError::Superseded));
    assert_eq!(older.depth().await, Err(QueueError::Superseded));
    assert_eq!(older.restart().await, Err(QueueError::Superseded));
    let refused = RedisQueue::open_as_dispatcher(server.config(), 9).await.err();
    assert_eq!(refused, Some(QueueError::Superseded));
    assert_eq!(
        delivered(&lease_all(&server.consumer().await, 3).await),
        references(5..8)
    );
}

#[tokio::test]
async fn jobs_with_different_prefixes_do_not_meet() {
    let Some(server) = Server::start() else { return };
    let one = server.dispatcher().await;
    let mut config = server.config();
    config.prefix = "other".to_owned();
    let two = RedisQueue::open_as_dispatcher(config, 7).await.unwrap();
    one.push(references(0..2)).await.unwrap();
    assert_eq!(two.depth().await, Ok(0));
    let keys: Vec<String> = server.ask(&["KEYS", "*"]).await;
    assert!(
        keys.iter()
            .all(|key| key.starts_with("stillhouse:{test}:") || key.starts_with("stillhouse:{other}:"))
    );
}
