use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use super::*;

const SECRET: [u8; 32] = [3; 32];
/// Reaching it means a hang.
const LONG: Duration = Duration::from_secs(60);
/// Awaited in full by the tests of deadlines; a handshake fits in it on a busy machine.
const SHORT: Duration = Duration::from_secs(1);

fn listeners(n: usize) -> (Vec<RingListener>, Vec<SocketAddr>) {
    let listeners: Vec<_> = (0..n).map(|_| RingListener::bind("127.0.0.1:0").unwrap()).collect();
    let peers = listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap())
        .collect();
    (listeners, peers)
}

fn rings(listeners: &[RingListener], peers: &[SocketAddr], group: u64) -> Vec<Ring> {
    thread::scope(|scope| {
        let join = |(rank, listener)| {
            scope.spawn(move || Ring::connect(listener, rank, peers, GroupId(group), &SECRET, LONG).unwrap())
        };
        let threads: Vec<_> = listeners.iter().enumerate().map(join).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn sums(rings: Vec<Ring>) {
    let n = rings.len();
    let threads: Vec<_> = rings
        .into_iter()
        .map(|mut ring| {
            thread::spawn(move || {
                let mut data = [1.0; 5];
                ring.all_reduce(&mut data).unwrap();
                assert_eq!(data, [n as f32; 5]);
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn one_listener_serves_one_group_after_another() {
    let (listeners, peers) = listeners(3);
    for group in 1..=3 {
        sums(rings(&listeners, &peers, group));
    }
}

#[test]
fn strangers_are_dropped_and_the_ring_still_forms() {
    let (listeners, peers) = listeners(2);
    let silent = TcpStream::connect(peers[0]).unwrap();
    let mut garbage = TcpStream::connect(peers[0]).unwrap();
    garbage.write_all(&[0xff; 4096]).unwrap();
    drop(TcpStream::connect(peers[1]).unwrap());
    sums(rings(&listeners, &peers, 1));
    let mut rest = Vec::new();
    // A reset is as good an end as a close.
    let _ = garbage.read_to_end(&mut rest);
    assert_eq!(rest, [], "a stranger was answered");
    drop(silent);
}

#[test]
fn a_member_without_the_secret_is_never_let_in() {
    let (listeners, peers) = listeners(2);
    let joined = thread::scope(|scope| {
        let (right, wrong) = (&listeners[0], &listeners[1]);
        let peers = &peers;
        let right = scope.spawn(move || Ring::connect(right, 0, peers, GroupId(1), &SECRET, SHORT));
        let wrong = scope.spawn(move || Ring::connect(wrong, 1, peers, GroupId(1), &[4; 32], SHORT));
        [right.join().unwrap(), wrong.join().unwrap()]
    });
    for outcome in joined {
        assert!(matches!(outcome, Err(CollectiveError::Handshake { .. })), "{outcome:?}");
    }
}

#[test]
fn a_member_of_another_group_is_never_let_in() {
    let (listeners, peers) = listeners(2);
    let joined = thread::scope(|scope| {
        let join = |rank: usize| {
            let (listener, peers) = (&listeners[rank], &peers);
            let group = GroupId(rank as u64);
            scope.spawn(move || Ring::connect(listener, rank, peers, group, &SECRET, SHORT))
        };
        let threads = [join(0), join(1)];
        threads.map(|thread| thread.join().unwrap())
    });
    assert!(joined.iter().all(Result::is_err), "{joined:?}");
}

#[test]
fn an_impostor_that_reflects_what_it_hears_is_refused() {
    let impostor = TcpListener::bind("127.0.0.1:0").unwrap();
    let mine = RingListener::bind("127.0.0.1:0").unwrap();
    let peers = [mine.local_addr().unwrap(), impostor.local_addr().unwrap()];
    thread::spawn(move || {
        for stream in impostor.incoming() {
            let mut stream = stream.unwrap();
            let mut heard = [0; 64];
            let _ = stream.read_exact(&mut heard).and_then(|()| stream.write_all(&heard));
        }
    });
    let outcome = Ring::connect(&mine, 0, &peers, GroupId(1), &SECRET, SHORT);
    assert!(
        matches!(outcome, Err(CollectiveError::Handshake { rank: 0, peer: 1, .. })),
        "{outcome:?}"
    );
}

#[test]
fn a_recorded_handshake_does_not_open_a_second_connection() {
    let (listeners, peers) = listeners(2);
    let tap = TcpListener::bind("127.0.0.1:0").unwrap();
    let tapped = [tap.local_addr().unwrap(), peers[1]];
    let victim = peers[0];
    let tape = thread::spawn(move || record(&tap, victim));
    let rings = thread::scope(|scope| {
        let (first, second) = (&listeners[0], &listeners[1]);
        let peers = &peers;
        let first = scope.spawn(move || Ring::connect(first, 0, peers, GroupId(1), &SECRET, LONG).unwrap());
        let second = scope.spawn(move || Ring::connect(second, 1, &tapped, GroupId(1), &SECRET, LONG).unwrap());
        [first.join().unwrap(), second.join().unwrap()]
    });
    drop(rings);
    let tape = tape.join().unwrap();
    assert_eq!(tape.len(), 64 + 32, "the tape holds a hello and a proof");
    let mut replay = TcpStream::connect(victim).unwrap();
    replay.write_all(&tape).unwrap();
    let outcome = Ring::connect(&listeners[0], 0, &peers, GroupId(1), &SECRET, SHORT);
    assert!(outcome.is_err());
    let mut answer = Vec::new();
    let _ = replay.read_to_end(&mut answer);
    assert!(answer.len() <= 64, "the replay was welcomed");
}

/// Passes one handshake through to `victim`; returns what the connector sent.
fn record(tap: &TcpListener, victim: SocketAddr) -> Vec<u8> {
    let (mut connector, _) = tap.accept().unwrap();
    let mut acceptor = TcpStream::connect(victim).unwrap();
    let mut tape = vec![0; 96];
    connector.read_exact(&mut tape[..64]).unwrap();
    acceptor.write_all(&tape[..64]).unwrap();
    let mut answer = [0; 64];
    acceptor.read_exact(&mut answer).unwrap();
    connector.write_all(&answer).unwrap();
    connector.read_exact(&mut tape[64..]).unwrap();
    acceptor.write_all(&tape[64..]).unwrap();
    let mut welcome = [0];
    acceptor.read_exact(&mut welcome).unwrap();
    connector.write_all(&welcome).unwrap();
    // The offer of a lane, and what it comes to, are of no use to a thief.
    let mut offer = [0; 44];
    connector.read_exact(&mut offer).unwrap();
    acceptor.write_all(&offer).unwrap();
    acceptor.read_exact(&mut welcome).unwrap();
    connector.write_all(&welcome).unwrap();
    tape
}

#[test]
fn a_rank_outside_the_world_is_refused() {
    let (listeners, peers) = listeners(1);
    let outcome = Ring::connect(&listeners[0], 1, &peers, GroupId(1), &SECRET, LONG);
    assert!(matches!(outcome, Err(CollectiveError::Counts { .. })), "{outcome:?}");
}

#[test]
fn joining_can_be_called_off() {
    let (listeners, peers) = listeners(2);
    let abort = AbortHandle::new();
    let outcome = thread::scope(|scope| {
        let membership = Membership {
            rank: 0,
            peers: &peers,
            group: GroupId(1),
            secret: &SECRET,
            seal: None,
            deadline: LONG,
        };
        let (listener, handle) = (&listeners[0], &abort);
        let joining = scope.spawn(move || Ring::join(listener, &membership, handle));
        abort.abort();
        joining.join().unwrap()
    });
    assert!(
        matches!(
            outcome,
            Err(CollectiveError::Aborted {
                rank: 0,
                operation: Operation::Connect
            })
        ),
        "{outcome:?}"
    );
}

#[test]
fn a_silent_member_is_a_deadline_and_not_a_hang() {
    let (listeners, peers) = listeners(3);
    let mut rings = rings(&listeners, &peers, 1);
    let silent = rings.remove(2);
    let threads: Vec<_> = rings
        .into_iter()
        .map(|mut ring| {
            ring.set_deadline(SHORT);
            thread::spawn(move || ring.all_reduce(&mut [1.0; 10]))
        })
        .collect();
    let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    // Both wait equally long: whichever is first closes its connections, and the other sees that.
    let late = |outcome: &Result<(), _>| matches!(outcome, Err(CollectiveError::Deadline { .. }));
    let lost = |outcome: &Result<(), _>| matches!(outcome, Err(CollectiveError::PeerLost { .. }));
    assert!(
        outcomes.iter().all(|outcome| late(outcome) || lost(outcome)),
        "{outcomes:?}"
    );
    assert!(outcomes.iter().any(late), "{outcomes:?}");
    drop(silent);
}

#[test]
fn ranks_that_disagree_about_the_operation_find_out() {
    let (listeners, peers) = listeners(2);
    let mut rings = rings(&listeners, &peers, 1).into_iter();
    let (mut first, mut second) = (rings.next().unwrap(), rings.next().unwrap());
    let outcomes = thread::scope(|scope| {
        let first = scope.spawn(move || first.all_reduce(&mut [1.0; 6]));
        let second = scope.spawn(move || second.all_reduce(&mut [1.0; 8]));
        [first.join().unwrap(), second.join().unwrap()]
    });
    // Whoever sees it first closes its connections, which may be all that the other sees.
    assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
    let mismatch = outcomes
        .iter()
        .flat_map(|outcome| outcome.as_ref().err())
        .find(|error| matches!(error, CollectiveError::Mismatch { .. }))
        .expect("one rank says what differs")
        .to_string();
    assert!(
        mismatch.contains("3 floats") && mismatch.contains("4 floats"),
        "{mismatch}"
    );
}
