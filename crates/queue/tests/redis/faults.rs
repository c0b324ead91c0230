//! Servers that stall, connections that are cut, strangers that write into the stream.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::Signal;
use stillhouse_queue::conformance::{delivered, ids, lease_all, references};
use stillhouse_queue::{Queue, QueueError, RedisQueue};

use crate::server::{Server, reached};

const STREAM: &str = "stillhouse:{test}:queue";

#[tokio::test]
async fn a_server_that_stalls_for_a_while_is_waited_for() {
    let Some(server) = Server::start() else { return };
    let (dispatcher, consumer) = (server.dispatcher().await, server.consumer().await);
    let waiting = async { lease_all(&consumer, 3).await };
    let stalled = async {
        server.signal(Signal::STOP);
        let push = dispatcher.push(references(0..3));
        let go_on = async {
            // The fault: shorter than the time that an answer may take.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            server.signal(Signal::CONT);
        };
        tokio::join!(push, go_on).0
    };
    let (leases, pushed) = tokio::join!(waiting, stalled);
    assert_eq!(pushed, Ok(()));
    assert_eq!(delivered(&leases), references(0..3));
}

#[tokio::test]
async fn a_server_that_stalls_for_too_long_is_unavailable_until_it_goes_on() {
    let Some(server) = Server::start() else { return };
    let mut config = server.config();
    config.response_timeout = Duration::from_millis(200);
    let queue = RedisQueue::open_as_dispatcher(config, 1).await.unwrap();
    queue.push(references(0..3)).await.unwrap();
    let leases = lease_all(&queue, 3).await;
    server.signal(Signal::STOP);
    for told in [queue.depth().await.map(|_| ()), queue.ack(&ids(&leases)).await] {
        assert!(matches!(told, Err(QueueError::Unavailable { .. })), "{told:?}");
    }
    server.signal(Signal::CONT);
    reached(async || queue.ack(&[]).await).await.unwrap();
    assert_eq!(
        reached(async || queue.depth().await).await,
        Ok(0),
        "what could not be told is told later"
    );
}

#[tokio::test]
async fn connections_that_are_cut_are_made_again() {
    let Some(server) = Server::start() else { return };
    let (dispatcher, consumer) = (server.dispatcher().await, server.consumer().await);
    for round in 0..20 {
        let numbers = round * 10..round * 10 + 10;
        let waiting = async { lease_all(&consumer, 10).await };
        let cut = async {
            let _: usize = server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
            reached(async || dispatcher.push(references(numbers.clone())).await).await
        };
        let (leases, pushed) = tokio::join!(waiting, cut);
        assert_eq!(pushed, Ok(()));
        assert_eq!(delivered(&leases), references(numbers.clone()), "round {round}");
        reached(async || consumer.ack(&ids(&leases)).await).await.unwrap();
    }
    assert_eq!(dispatcher.depth().await, Ok(0));
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_and_closing_does_not_wait_for_it() {
    let Some(mut server) = Server::start() else { return };
    let mut config = server.config();
    config.response_timeout = Duration::from_millis(200);
    let queue = RedisQueue::open_as_dispatcher(config.clone(), 1).await.unwrap();
    server.kill();
    for _ in 0..2 {
        let pushed = queue.push(references(0..1)).await;
        assert!(matches!(pushed, Err(QueueError::Unavailable { .. })), "{pushed:?}");
    }
    let (leased, ()) = tokio::join!(queue.lease(1), async { queue.close() });
    assert_eq!(leased, Err(QueueError::Closed));
    assert_eq!(queue.depth().await, Err(QueueError::Closed));
    queue.leave().await;
    let opened = RedisQueue::open(config).await.err();
    assert!(matches!(opened, Some(QueueError::Unavailable { .. })), "{opened:?}");
}

/// Lines that were logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Warnings that contain `text`.
    fn warnings(&self, text: &str) -> usize {
        let lines = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        lines
            .lines()
            .filter(|line| line.contains("WARN") && line.contains(text))
            .count()
    }
}

#[tokio::test]
async fn what_a_stranger_writes_is_skipped_and_deleted_with_one_warning() {
    let Some(server) = Server::start() else { return };
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let queue = server.dispatcher().await;
    for fields in [&["b", "garbage"][..], &["x", "1", "y", "2"], &["b", "SHQ2"]] {
        let _: String = server.ask(&[&["XADD", STREAM, "*"], fields].concat()).await;
    }
    queue.push(references(0..3)).await.unwrap();
    let leases = lease_all(&queue, 3).await;
    assert_eq!(delivered(&leases), references(0..3));
    queue.ack(&ids(&leases)).await.unwrap();
    assert_eq!(queue.depth().await, Ok(0));
    let entries: usize = server.ask(&["XLEN", STREAM]).await;
    assert_eq!((entries, log.warnings("not ours")), (0, 1));
}

#[tokio::test]
async fn what_a_stranger_writes_is_not_reclaimed() {
    let Some(server) = Server::start() else { return };
    let (dispatcher, slow) = (server.dispatcher().await, server.consumer().await);
    // Looks like a block, but of no life that ever was here.
    let forged = [&b"SHQ2"[..], &[b'n'; 12], &[0; 60]].concat();
    let _: String = server.ask(&[b"XADD", STREAM.as_bytes(), b"*", b"b", &forged]).await;
    dispatcher.push(references(0..1)).await.unwrap();
    lease_all(&slow, 2).await;
    assert_eq!(dispatcher.reclaim(Duration::ZERO).await, Ok(1));
    assert_eq!(dispatcher.depth().await, Ok(1));
    let entries: usize = server.ask(&["XLEN", STREAM]).await;
    assert_eq!(entries, 1);
}

#[tokio::test]
async fn a_server_without_memory_refuses_what_is_pushed_and_takes_what_is_settled() {
    let Some(server) = Server::start() else { return };
    let queue = server.dispatcher().await;
    queue.push(references(0..3)).await.unwrap();
    let () = server.ask(&["CONFIG", "SET", "maxmemory", "1000"]).await;
    let pushed = queue.push(references(3..4)).await;
    let says_why = |cause: &str| cause.contains("OOM") || cause.contains("maxmemory");
    assert!(
        matches!(&pushed, Err(QueueError::Unavailable { cause }) if says_why(cause)),
        "{pushed:?}"
    );
    let leases = lease_all(&queue, 3).await;
    queue.ack(&ids(&leases)).await.unwrap();
    assert_eq!(queue.depth().await, Ok(0));
}
