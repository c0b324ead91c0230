use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{handshake::Proof, *};

const MAX: usize = 1 << 20;

fn secret(byte: u8) -> Secret {
    Secret::from_hex(&format!("{byte:02x}").repeat(32)).unwrap()
}

async fn listener() -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0", secret(1), |_| MAX).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn target(address: SocketAddr, byte: u8) -> Target {
    Target::plain(address, secret(byte))
}

async fn pair() -> (Connection, Connection) {
    let (mut listener, address) = listener().await;
    let target = target(address, 1);
    let (accepted, connected) = tokio::join!(listener.accept(), connect(&target, Purpose::Worker, MAX));
    (connected.unwrap(), accepted)
}

/// The acceptor's part of the handshake, by somebody who knows the secret.
async fn admit(stream: &mut TcpStream, deadline: Duration) -> Result<Purpose, LinkError> {
    let (secret, peer) = (secret(1), stream.peer_addr().unwrap());
    let (secret, binding) = (&secret, None);
    handshake::within(deadline, peer, handshake::admit(stream, Proof { secret, binding })).await
}

/// The connector's part, likewise.
async fn greet(stream: &mut TcpStream) -> Result<(), LinkError> {
    let (secret, peer) = (secret(1), stream.peer_addr().unwrap());
    let (secret, binding) = (&secret, None);
    let exchange = handshake::greet(stream, Proof { secret, binding }, Purpose::Worker);
    handshake::within(HANDSHAKE_DEADLINE, peer, exchange).await
}

/// A raw connection and the stream that the acceptor's handshake is to run on.
async fn raw_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let raw = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    (raw, stream)
}

fn framed(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes(), payload].concat()
}

fn hello() -> Vec<u8> {
    framed(&[&handshake::MAGIC[..], b"W", &[9; 32]].concat())
}

#[tokio::test]
async fn many_frames_of_every_size_arrive_in_order() {
    let (near, far) = pair().await;
    let (sender, _keep) = near.split();
    let (echo, mut received) = far.split();
    let sizes: Vec<usize> = (0..2000)
        .map(|i| (i * i * 31) % 5000)
        .chain([0, MAX, 1, MAX - 1, 0])
        .collect();
    let payload = |i: usize, size: usize| vec![(i % 251) as u8; size];
    let sent = sizes.clone();
    let sending = tokio::spawn(async move {
        for (i, &size) in sent.iter().enumerate() {
            sender.send(payload(i, size)).await.unwrap();
        }
        sender.flush().await.unwrap();
    });
    for (i, &size) in sizes.iter().enumerate() {
        let frame = received.recv().await.unwrap().unwrap();
        assert!(frame == payload(i, size), "frame {i} of {size} bytes differs");
    }
    sending.await.unwrap();
    assert_eq!(
        received.recv().await.unwrap(),
        None,
        "the last sender's end closes the direction"
    );
    drop(echo);
}

#[tokio::test]
async fn both_directions_work_at_once() {
    let (near, far) = pair().await;
    let (sender, mut receiver) = near.split();
    let (echo, mut heard) = far.split();
    tokio::spawn(async move {
        while let Some(frame) = heard.recv().await.unwrap() {
            echo.send(frame).await.unwrap();
        }
    });
    for i in 0..100_u32 {
        sender.send(i.to_le_bytes().to_vec()).await.unwrap();
        assert_eq!(
            receiver.recv().await.unwrap().unwrap(),
            Bytes::from(i.to_le_bytes().to_vec())
        );
    }
}

#[tokio::test]
async fn a_wrong_secret_is_refused_by_both_ends_and_a_right_one_still_gets_in() {
    let (mut listener, address) = listener().await;
    let accepting = tokio::spawn(async move { listener.accept().await });
    let wrong = connect(&target(address, 2), Purpose::Worker, MAX).await;
    assert!(matches!(wrong, Err(LinkError::Refused { .. })), "{wrong:?}");
    let right = connect(&target(address, 1), Purpose::Worker, MAX).await;
    assert!(right.is_ok(), "{right:?}");
    accepting.await.unwrap();
}

#[tokio::test]
async fn an_acceptor_refuses_a_proof_made_with_another_secret() {
    let (raw, mut stream) = raw_pair().await;
    tokio::spawn(async move {
        let mut raw = raw;
        raw.write_all(&hello()).await.unwrap();
        raw.read_exact(&mut [0; 68]).await.unwrap();
        raw.write_all(&framed(&[7; 32])).await.unwrap();
        raw.read_u8().await.unwrap_err();
    });
    let outcome = admit(&mut stream, HANDSHAKE_DEADLINE).await;
    assert!(matches!(outcome, Err(LinkError::Refused { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_link_is_for_what_its_connector_says_and_nobody_on_the_way_can_change_that() {
    let (mut listener, address) = listener().await;
    let target = target(address, 1);
    for purpose in [Purpose::Worker, Purpose::Gateway, Purpose::Watcher, Purpose::Tormentor] {
        let (accepted, connected) = tokio::join!(listener.accept(), connect(&target, purpose, MAX));
        assert_eq!((accepted.purpose(), connected.unwrap().purpose()), (purpose, purpose));
    }
    let (mut tap, mut stream) = raw_pair().await;
    let (mut honest, mut connector) = raw_pair().await;
    let meddle = async {
        let mut hello = [0; 45];
        honest.read_exact(&mut hello).await.unwrap();
        hello[12] = b'G';
        tap.write_all(&hello).await.unwrap();
        let mut challenge = [0; 68];
        tap.read_exact(&mut challenge).await.unwrap();
        honest.write_all(&challenge).await.unwrap();
        drop((tap, honest));
    };
    let (admitted, greeted, ()) = tokio::join!(admit(&mut stream, HANDSHAKE_DEADLINE), greet(&mut connector), meddle,);
    assert!(matches!(greeted, Err(LinkError::Refused { .. })), "{greeted:?}");
    admitted.unwrap_err();
}

#[tokio::test]
async fn a_proof_that_is_reflected_is_refused() {
    let (raw, mut stream) = raw_pair().await;
    let reflecting = async move {
        let mut raw = raw;
        raw.write_all(&hello()).await.unwrap();
        let mut challenge = [0; 68];
        raw.read_exact(&mut challenge).await.unwrap();
        raw.write_all(&framed(&challenge[36..])).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(admit(&mut stream, HANDSHAKE_DEADLINE), reflecting);
    assert!(matches!(outcome, Err(LinkError::Refused { .. })), "{outcome:?}");
}

#[tokio::test]
async fn a_handshake_that_is_replayed_is_refused() {
    let (mut tap, mut stream) = raw_pair().await;
    let (mut recorded, mut acceptor) = raw_pair().await;
    let record = async {
        // Everything that an honest connector sends, while it talks to an honest acceptor.
        let mut tape = vec![0; 45 + 36];
        recorded.read_exact(&mut tape[..45]).await.unwrap();
        tap.write_all(&tape[..45]).await.unwrap();
        let mut challenge = [0; 68];
        tap.read_exact(&mut challenge).await.unwrap();
        recorded.write_all(&challenge).await.unwrap();
        recorded.read_exact(&mut tape[45..]).await.unwrap();
        tap.write_all(&tape[45..]).await.unwrap();
        let mut welcome = [0; 5];
        tap.read_exact(&mut welcome).await.unwrap();
        recorded.write_all(&welcome).await.unwrap();
        tape
    };
    let (admitted, greeted, tape) = tokio::join!(admit(&mut stream, HANDSHAKE_DEADLINE), greet(&mut acceptor), record,);
    admitted.unwrap();
    greeted.unwrap();
    let (mut replay, mut stream) = raw_pair().await;
    replay.write_all(&tape).await.unwrap();
    let outcome = admit(&mut stream, HANDSHAKE_DEADLINE).await;
    assert!(matches!(outcome, Err(LinkError::Refused { .. })), "{outcome:?}");
}

#[tokio::test]
async fn garbage_and_long_messages_before_the_welcome_are_refused_unread() {
    for bytes in [
        vec![0xff; 4096],
        framed(&[0; 129]),
        framed(&[0; 41]),
        framed(&[&handshake::MAGIC[..], b"?", &[9; 32]].concat()),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let (mut raw, mut stream) = raw_pair().await;
        raw.write_all(&bytes).await.unwrap();
        let outcome = admit(&mut stream, HANDSHAKE_DEADLINE).await;
        assert!(matches!(outcome, Err(LinkError::Refused { .. })), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_handshake_that_trickles_ends_at_its_deadline() {
    let (mut raw, mut stream) = raw_pair().await;
    let trickle = tokio::spawn(async move {
        for byte in hello().into_iter().take(43) {
            raw.write_all(&[byte]).await.unwrap();
        }
        raw.read_u8().await.unwrap_err();
    });
    let deadline = Duration::from_millis(50);
    let outcome = admit(&mut stream, deadline).await;
    assert!(
        matches!(outcome, Err(LinkError::HandshakeDeadline { .. })),
        "{outcome:?}"
    );
    drop(stream);
    trickle.await.unwrap();
}

#[tokio::test]
async fn a_silent_stranger_holds_nobody_up() {
    let (mut listener, address) = listener().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let target = target(address, 1);
    let (_, connected) = tokio::join!(listener.accept(), connect(&target, Purpose::Worker, MAX));
    connected.unwrap();
}

#[tokio::test]
async fn a_frame_over_the_bound_is_an_error_at_either_end() {
    let (mut listener, address) = listener().await;
    let target = target(address, 1);
    let (accepted, connected) = tokio::join!(listener.accept(), connect(&target, Purpose::Worker, 2 * MAX));
    let (sender, _keep) = connected.unwrap().split();
    let refused = sender.send(vec![0; 2 * MAX + 1]).await;
    assert!(matches!(refused, Err(LinkError::FrameTooLong { .. })), "{refused:?}");
    sender.send(vec![0; MAX + 1]).await.unwrap();
    let (_keep, mut receiver) = accepted.split();
    let refused = receiver.recv().await;
    assert!(
        matches!(
            refused,
            Err(LinkError::FrameTooLong {
                max_frame_bytes: MAX,
                ..
            })
        ),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_link_cut_inside_a_frame_is_lost_and_not_ended() {
    let (mut listener, address) = listener().await;
    let cut = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        greet(&mut stream).await.unwrap();
        stream.write_all(&framed(b"whole")).await.unwrap();
        stream.write_all(&framed(b"half")[..6]).await.unwrap();
    };
    let (accepted, ()) = tokio::join!(listener.accept(), cut);
    let (_keep, mut receiver) = accepted.split();
    assert_eq!(receiver.recv().await.unwrap().unwrap(), "whole");
    let lost = receiver.recv().await;
    assert!(matches!(lost, Err(LinkError::Lost { .. })), "{lost:?}");
}

#[tokio::test]
async fn sending_to_a_peer_that_left_becomes_an_error() {
    let (near, far) = pair().await;
    drop(far);
    let (sender, _keep) = near.split();
    let error = loop {
        if let Err(error) = sender.send(vec![0; 1000]).await {
            break error;
        }
    };
    assert!(matches!(error, LinkError::Closed { .. }), "{error:?}");
    sender.closed_by_peer().await;
}

/// A link whose accepting end holds reins.
async fn reined_pair() -> (Connection, Connection) {
    let (listener, address) = listener().await;
    let (mut listener, target) = (listener.reined(), target(address, 1));
    let (accepted, connected) = tokio::join!(listener.accept(), connect(&target, Purpose::Worker, MAX));
    (connected.unwrap(), accepted)
}

#[tokio::test]
async fn a_link_that_is_cut_is_lost_to_both_ends_and_only_who_was_told_to_holds_reins() {
    let (near, far) = reined_pair().await;
    let reins = far.reins().expect("its listener was told to");
    assert!(near.reins().is_none() && pair().await.1.reins().is_none());
    let (sender, mut receiver) = near.split();
    let (_keep, mut heard) = far.split();
    sender.send(vec![1]).await.unwrap();
    assert_eq!(heard.recv().await.unwrap().unwrap(), [1][..]);
    assert!(!reins.is_over());
    reins.cut();
    let lost = heard.recv().await;
    assert!(matches!(lost, Err(LinkError::Lost { .. })), "{lost:?}");
    drop((heard, _keep));
    let ended = receiver.recv().await;
    assert!(matches!(ended, Ok(None) | Err(LinkError::Lost { .. })), "{ended:?}");
    reins.slow(Duration::from_secs(1), Duration::from_secs(1));
    assert!(reins.is_over(), "a cut link stays cut");
}

#[tokio::test]
async fn nothing_moves_over_a_slow_link_before_its_pause_is_over_and_then_it_arrives_whole() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let (near, far) = reined_pair().await;
    let (other_near, other_far) = pair().await;
    let reins = far.reins().expect("its listener was told to");
    let (_keep, mut receiver) = near.split();
    let (sender, _heard) = far.split();
    let (_other_keep, mut other_receiver) = other_near.split();
    let (other_sender, _other_heard) = other_far.split();
    reins.slow(Duration::from_millis(1), HOUR);
    sender.send(vec![7; 1000]).await.unwrap();
    assert_eq!(receiver.recv().await.unwrap().unwrap(), vec![7; 1000]);
    reins.slow(HOUR, HOUR);
    sender.send(vec![8]).await.unwrap();
    other_sender.send(vec![9]).await.unwrap();
    tokio::select! {
        biased;
        frame = receiver.recv() => panic!("{frame:?} did not wait"),
        frame = other_receiver.recv() => assert_eq!(frame.unwrap().unwrap(), [9][..]),
    }
    // A cut does not wait for the pause.
    reins.cut();
    sender.closed_by_peer().await;
}
