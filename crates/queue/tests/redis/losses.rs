//! Content that vanishes, or comes back from an older copy, is noticed and filled again.

use stillhouse_queue::conformance::{delivered, ids, lease_all, references};
use stillhouse_queue::{Queue, QueueError, RedisQueue};

use crate::server::{Server, reached};

const STREAM: &str = "stillhouse:{test}:queue";
const MARKER: &str = "stillhouse:{test}:life";

/// The dispatcher notices by looking and by pushing, fills again, and all is as before.
async fn is_noticed_and_filled_again(dispatcher: &RedisQueue, consumer: &RedisQueue) {
    assert_eq!(reached(async || dispatcher.depth().await).await, Err(QueueError::Lost));
    let pushed = reached(async || dispatcher.push(references(10..11)).await).await;
    assert_eq!(pushed, Err(QueueError::Lost));
    dispatcher.restart().await.unwrap();
    dispatcher.push(references(0..11)).await.unwrap();
    assert_eq!(dispatcher.depth().await, Ok(11));
    let leases = lease_all(consumer, 11).await;
    assert_eq!(delivered(&leases), references(0..11));
    reached(async || consumer.ack(&ids(&leases)).await).await.unwrap();
    assert_eq!(dispatcher.depth().await, Ok(0));
}

#[tokio::test]
async fn a_flushed_server_is_noticed_and_filled_again() {
    let Some(server) = Server::start() else { return };
    let (dispatcher, consumer) = (server.dispatcher().await, server.consumer().await);
    dispatcher.push(references(0..10)).await.unwrap();
    let () = server.ask(&["FLUSHALL"]).await;
    is_noticed_and_filled_again(&dispatcher, &consumer).await;
}

#[tokio::test]
async fn a_server_that_is_flushed_while_consumers_hold_and_wait_is_filled_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let (dispatcher, holds) = (server.dispatcher().await, server.consumer().await);
    dispatcher.push(references(0..10)).await.unwrap();
    let old = lease_all(&holds, 10).await;
    let waits = server.consumer().await;
    let flush_and_fill = async {
        let () = server.ask(&["FLUSHALL"]).await;
        assert_eq!(dispatcher.depth().await, Err(QueueError::Lost));
        dispatcher.restart().await.unwrap();
        dispatcher.push(references(0..10)).await.unwrap();
        holds.ack(&ids(&old[..5])).await.unwrap();
        holds.nack(&ids(&old[5..])).await.unwrap();
    };
    let (leases, ()) = tokio::join!(biased; lease_all(&waits, 10), flush_and_fill);
    assert_eq!(delivered(&leases), references(0..10));
    assert_eq!(dispatcher.depth().await, Ok(10), "deliveries of before are void");
}

#[tokio::test]
async fn a_deleted_stream_is_noticed_and_filled_again() {
    let Some(server) = Server::start() else { return };
    let (dispatcher, consumer) = (server.dispatcher().await, server.consumer().await);
    dispatcher.push(references(0..10)).await.unwrap();
    let () = server.ask(&["DEL", STREAM]).await;
    is_noticed_and_filled_again(&dispatcher, &consumer).await;
}

#[tokio::test]
async fn keys_that_became_something_else_are_noticed_and_replaced() {
    let Some(server) = Server::start() else { return };
    let (dispatcher, consumer) = (server.dispatcher().await, server.consumer().await);
    for key in [STREAM, MARKER] {
        let () = server.ask(&["SET", key, "something else"]).await;
        is_noticed_and_filled_again(&dispatcher, &consumer).await;
    }
}

#[tokio::test]
async fn a_deleted_group_or_marker_is_noticed() {
    let Some(server) = Server::start() else { return };
    let dispatcher = server.dispatcher().await;
    let () = server.ask(&["XGROUP", "DESTROY", STREAM, "gateways"]).await;
    assert_eq!(dispatcher.depth().await, Err(QueueError::Lost));
    dispatcher.restart().await.unwrap();
    assert_eq!(dispatcher.depth().await, Ok(0));
    let () = server.ask(&["DEL", MARKER]).await;
    assert_eq!(dispatcher.depth().await, Err(QueueError::Lost));
}

#[tokio::test]
async fn entries_that_somebody_removed_are_noticed() {
    let Some(server) = Server::start() else { return };
    let dispatcher = server.dispatcher().await;
    dispatcher.push(references(0..200)).await.unwrap();
    let () = server.ask(&["XTRIM", STREAM, "MAXLEN", "1"]).await;
    assert_eq!(dispatcher.depth().await, Err(QueueError::Lost));
}

#[tokio::test]
async fn the_marker_of_an_older_dispatcher_means_a_loss() {
    let Some(server) = Server::start() else { return };
    let dispatcher = RedisQueue::open_as_dispatcher(server.config(), 30).await.unwrap();
    let older = format!("{:020}", 4);
    let () = server.ask(&["HSET", MARKER, "life", &older]).await;
    assert_eq!(dispatcher.push(references(0..1)).await, Err(QueueError::Lost));
    dispatcher.restart().await.unwrap();
    dispatcher.push(references(0..1)).await.unwrap();
}

#[tokio::test]
async fn a_killed_server_whose_files_are_gone_is_filled_again() {
    let Some(mut server) = Server::start_with(&["--appendonly", "yes"]) else {
        return;
    };
    let (dispatcher, consumer) = (server.dispatcher().await, server.consumer().await);
    dispatcher.push(references(0..10)).await.unwrap();
    server.kill();
    server.wipe();
    server.start_again();
    is_noticed_and_filled_again(&dispatcher, &consumer).await;
}

#[tokio::test]
async fn a_server_that_comes_back_from_an_older_copy_is_filled_again() {
    let Some(mut server) = Server::start() else { return };
    let (dispatcher, consumer) = (server.dispatcher().await, server.consumer().await);
    dispatcher.push(references(0..5)).await.unwrap();
    let () = server.ask(&["SAVE"]).await;
    dispatcher.push(references(5..10)).await.unwrap();
    server.kill();
    server.start_again();
    assert_eq!(
        server.ask::<usize>(&["XLEN", STREAM]).await,
        1,
        "the copy of before the second push"
    );
    is_noticed_and_filled_again(&dispatcher, &consumer).await;
}

#[tokio::test]
async fn what_a_consumer_ended_after_the_copy_is_delivered_again_and_ended_again() {
    let Some(mut server) = Server::start() else { return };
    let (dispatcher, consumer) = (server.dispatcher().await, server.consumer().await);
    dispatcher.push(references(0..5)).await.unwrap();
    let leases = lease_all(&consumer, 5).await;
    let () = server.ask(&["SAVE"]).await;
    consumer.ack(&ids(&leases)).await.unwrap();
    assert_eq!(dispatcher.depth().await, Ok(0));
    server.kill();
    server.start_again();
    assert_eq!(
        reached(async || dispatcher.depth().await).await,
        Ok(5),
        "nothing that was pushed is missing"
    );
    let again = lease_all(&consumer, 5).await;
    assert_eq!(
        delivered(&again),
        references(0..5),
        "it is in the consumer's name still"
    );
    reached(async || consumer.ack(&ids(&again)).await).await.unwrap();
    assert_eq!(dispatcher.depth().await, Ok(0));
}

#[tokio::test]
async fn a_server_that_kept_everything_loses_nothing() {
    let Some(mut server) = Server::start_with(&["--appendonly", "yes", "--appendfsync", "always"]) else {
        return;
    };
    let (dispatcher, consumer) = (server.dispatcher().await, server.consumer().await);
    dispatcher.push(references(0..100)).await.unwrap();
    let first = lease_all(&consumer, 70).await;
    server.kill();
    server.start_again();
    assert_eq!(reached(async || dispatcher.depth().await).await, Ok(100));
    reached(async || consumer.ack(&ids(&first)).await).await.unwrap();
    let rest = lease_all(&consumer, 30).await;
    assert_eq!(delivered(&rest), references(70..100));
    consumer.ack(&ids(&rest)).await.unwrap();
    assert_eq!(dispatcher.depth().await, Ok(0));
}

#[tokio::test]
async fn a_queue_that_is_done_with_leaves_no_keys_and_a_newer_one_is_left_alone() {
    let Some(server) = Server::start() else { return };
    let dispatcher = server.dispatcher().await;
    dispatcher.push(references(0..3)).await.unwrap();
    dispatcher.discard().await.unwrap();
    let keys: Vec<String> = server.ask(&["KEYS", "*"]).await;
    assert_eq!(keys, Vec::<String>::new());
    dispatcher.discard().await.unwrap();
    let _newer = RedisQueue::open_as_dispatcher(server.config(), 9).await.unwrap();
    assert_eq!(dispatcher.discard().await, Err(QueueError::Superseded));
    let keys: Vec<String> = server.ask(&["KEYS", "*"]).await;
    assert_eq!(keys.len(), 2);
}
