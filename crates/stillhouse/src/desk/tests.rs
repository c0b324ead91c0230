//! The desk with gateways over real links, good ones and bad ones.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use stillhouse_core::job::OnAmbiguous;
use stillhouse_core::{Key, Sample, SoftLabel};
use stillhouse_ledger::{Permit, RequestId};
use stillhouse_protocol::codec;
use stillhouse_runtime::Secret;
use stillhouse_runtime::link::{self, LinkError, Listener, Purpose, Target};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::message::{Begun, FromGateway, GatewayId, Outcome, Settled, Welcome};
use super::serve::{MAX_QUESTION_BYTES, serve};
use super::{Desk, DeskEvent};
use crate::chaos::lines::Lines;
use crate::gateway::Gateway;
use crate::gateway::counter::Counter;
use crate::gateway::remote::{DeskError, RemoteDesk};
use crate::gateway::tests::{Asking, Bench, CLASSES, SEEDS, SHAPE};

const GATEWAY: GatewayId = GatewayId(7);

/// A desk that listens.
struct Open {
    desk: Desk,
    events: mpsc::Receiver<DeskEvent>,
    address: SocketAddr,
    secret: Secret,
    serving: JoinHandle<()>,
}

impl Open {
    async fn new(bench: &Bench) -> Self {
        let (sender, events) = mpsc::channel(1_024);
        let desk = Desk::new(bench.ledger.clone(), &bench.spec, OnAmbiguous::Hold, CLASSES, sender);
        let secret = Secret::generate().unwrap();
        let listener = Listener::bind("127.0.0.1:0", secret.clone(), |_| MAX_QUESTION_BYTES);
        let listener = listener.await.unwrap();
        let address = listener.local_addr().unwrap();
        let welcome = Welcome {
            job: String::new(),
            digest: [3; 32],
            trace: bench.sources.trace,
            queue_prefix: "test".into(),
            fingerprint: bench.fingerprint,
            classes: CLASSES as u32,
            seeds: (*bench.sources.seeds).clone(),
            evaluation: None,
        };
        let links = listener.into_links(4);
        let served = serve(
            links,
            desk.clone(),
            welcome,
            std::sync::Arc::default(),
            Lines::default(),
        );
        let serving = tokio::spawn(async move { served.await.unwrap() });
        Self {
            desk,
            events,
            address,
            secret,
            serving,
        }
    }

    /// A gateway whose link goes through `address`, and the keeper of that link.
    async fn gateway(&self, bench: &Bench, address: SocketAddr) -> (Gateway, JoinHandle<Result<(), DeskError>>) {
        let connected = RemoteDesk::connect(Target::plain(address, self.secret.clone()), GATEWAY).await;
        let (desk, keeper, welcome) = connected.unwrap();
        assert_eq!(&welcome.seeds, &*bench.sources.seeds);
        let (teacher, _) = stillhouse_teacher::connect(&bench.spec, SHAPE, None).await.unwrap();
        let (queue, sources) = (bench.queue.clone(), bench.sources.clone());
        let counter = Counter::There(desk);
        let gateway = Gateway::new(teacher, queue, counter, sources, &bench.spec, OnAmbiguous::Hold);
        (gateway, tokio::spawn(keeper.run(CancellationToken::new())))
    }
}

/// Forwards connections to `target`, and drops each after a time that differs from one to the next.
async fn cutting(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0_u64.. {
            let (mut here, _) = listener.accept().await.unwrap();
            let mut there = TcpStream::connect(target).await.unwrap();
            tokio::spawn(async move {
                let life = Duration::from_millis(30 + number * 37 % 90);
                let copied = tokio::io::copy_bidirectional(&mut here, &mut there);
                drop(tokio::time::timeout(life, copied).await);
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_behind_a_link_that_is_cut_again_and_again_buys_every_label_once() {
    let mut bench = Bench::new(3).await;
    // Long enough for a few dozen cuts.
    bench.spec.rate_per_second = Some(20.0);
    bench.spec.batch = Some(1);
    let open = Open::new(&bench).await;
    let proxy = cutting(open.address).await;
    let (gateway, keeper) = open.gateway(&bench, proxy).await;
    let (desk, serving) = (open.desk.clone(), open.serving);
    let asking = Asking {
        desk: open.desk,
        gateway,
        events: open.events,
    };
    let mut joined = 0;
    let run = bench
        .run(asking, |event| {
            joined += u32::from(matches!(event, DeskEvent::Joined { .. }))
        })
        .await;
    assert!(run.error.is_none(), "{:?}", run.error);
    run.invariant_the_ledger_covers_the_bill();
    assert_eq!((run.counts.committed, run.billed), (u64::from(SEEDS), u64::from(SEEDS)));
    assert!(joined > 5, "the link was cut {joined} times only");
    keeper.await.unwrap().unwrap();
    assert!(!desk.has_under_way(GATEWAY));
    serving.await.unwrap();
}

/// One query with a permit, at a desk.
async fn permitted(bench: &Bench) -> (Desk, Permit) {
    let Asking { desk, .. } = bench.asking().await;
    let mut open: HashMap<Key, Sample> = [(bench.key(Sample::Seed(0)), Sample::Seed(0))].into();
    bench.admit(&mut open).await;
    let lease = stillhouse_queue::Queue::lease(&*bench.queue, 1)
        .await
        .unwrap()
        .remove(0);
    let permit = Permit {
        key: lease.reference.key,
        epoch: lease.reference.epoch,
        charge: lease.reference.charge,
    };
    (desk, permit)
}

fn answered(permit: Permit) -> Outcome {
    let label = SoftLabel::from_probabilities(vec![0.2, 0.3, 0.5], CLASSES).unwrap();
    Outcome::Answered {
        labels: vec![(permit, label)],
        useless: vec![],
        cause: String::new(),
        declined: vec![],
        reason: String::new(),
        latency: Duration::ZERO,
    }
}

#[tokio::test]
async fn a_request_that_is_begun_again_gets_its_answer_again_and_another_gets_nothing() {
    let bench = Bench::new(2).await;
    let (desk, permit) = permitted(&bench).await;
    let sent = Begun::Send {
        considered: 1,
        accepted: vec![permit],
    };
    let first = RequestId(1);
    assert_eq!(desk.begin(GATEWAY, first, &[permit]).await, sent);
    assert_eq!(desk.begin(GATEWAY, first, &[permit]).await, sent, "its answer was lost");
    assert_eq!(desk.settle(first, answered(permit)).await, Settled::GoOn);
    assert_eq!(desk.settle(first, answered(permit)).await, Settled::GoOn, "again");
    let used = Begun::Send {
        considered: 1,
        accepted: vec![],
    };
    assert_eq!(desk.begin(GatewayId(8), RequestId(2), &[permit]).await, used);
    let counts = bench.ledger.counts().await.unwrap();
    assert_eq!((counts.committed, counts.billed()), (1, 1));
}

#[tokio::test]
async fn a_lost_gateway_leaves_its_queries_in_doubt_and_may_still_bring_the_label() {
    let bench = Bench::new(2).await;
    let (desk, permit) = permitted(&bench).await;
    desk.begin(GATEWAY, RequestId(1), &[permit]).await;
    desk.abandon(GatewayId(8)).await;
    assert_eq!(bench.ledger.counts().await.unwrap().sent, 1, "that was another");
    desk.abandon(GATEWAY).await;
    let counts = bench.ledger.counts().await.unwrap();
    assert_eq!((counts.sent, counts.ambiguous), (0, 1));
    assert!(!desk.has_under_way(GATEWAY));
    desk.settle(RequestId(1), answered(permit)).await;
    let counts = bench.ledger.counts().await.unwrap();
    assert_eq!((counts.ambiguous, counts.committed), (0, 1));
}

#[tokio::test]
async fn a_declined_image_is_billed_and_the_asking_goes_on() {
    let bench = Bench::new(2).await;
    let (desk, permit) = permitted(&bench).await;
    desk.begin(GATEWAY, RequestId(1), &[permit]).await;
    let declined = Outcome::Answered {
        labels: vec![],
        useless: vec![],
        cause: String::new(),
        declined: vec![permit],
        reason: "I will not".into(),
        latency: Duration::ZERO,
    };
    assert_eq!(desk.settle(RequestId(1), declined).await, Settled::GoOn);
    let counts = bench.ledger.counts().await.unwrap();
    assert_eq!((counts.spent, counts.billed()), (1, 1));
}

#[tokio::test]
async fn nothing_begins_at_a_closed_desk_and_what_is_under_way_is_settled() {
    let bench = Bench::new(2).await;
    let (desk, permit) = permitted(&bench).await;
    desk.begin(GATEWAY, RequestId(1), &[permit]).await;
    desk.close();
    assert_eq!(desk.begin(GATEWAY, RequestId(2), &[permit]).await, Begun::Over);
    assert_eq!(desk.settle(RequestId(1), answered(permit)).await, Settled::Over);
    assert_eq!(bench.ledger.counts().await.unwrap().committed, 1);
}

#[tokio::test]
async fn strangers_and_babblers_are_refused_and_harm_nobody() {
    let bench = Bench::new(1).await;
    let open = Open::new(&bench).await;
    let stranger = Target::plain(open.address, Secret::generate().unwrap());
    let stranger = RemoteDesk::connect(stranger, GATEWAY).await;
    assert!(matches!(
        stranger.err(),
        Some(DeskError::Link(LinkError::Refused { .. }))
    ));

    let babble = [vec![255; 40], codec::encode(&FromGateway::Goodbye).unwrap()];
    for message in babble {
        let target = Target::plain(open.address, open.secret.clone());
        let connection = link::connect(&target, Purpose::Gateway, MAX_QUESTION_BYTES)
            .await
            .unwrap();
        let (sender, mut receiver) = connection.split();
        sender.send(message).await.unwrap();
        let heard = receiver.recv().await;
        assert!(!matches!(heard, Ok(Some(_))), "it was answered: {heard:?}");
    }

    let (gateway, keeper) = open.gateway(&bench, open.address).await;
    let asking = Asking {
        desk: open.desk,
        gateway,
        events: open.events,
    };
    let run = bench.run(asking, |_| ()).await;
    assert_eq!((run.counts.committed, run.billed), (u64::from(SEEDS), u64::from(SEEDS)));
    keeper.await.unwrap().unwrap();
}
