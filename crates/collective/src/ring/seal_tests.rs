//! Rings under TLS, and what somebody between two ranks can do.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use super::{wire::Wire, *};

const SECRET: [u8; 32] = [3; 32];
/// Reaching it means a hang.
const LONG: Duration = Duration::from_secs(60);
/// Awaited in full where nobody is let in.
const SHORT: Duration = Duration::from_secs(1);
const FLOATS: usize = 100_000;

/// Two ranks of which the second reaches the first through `between`; what comes of it.
fn join(seals: [Option<&Seal>; 2], between: Option<&TcpListener>, deadline: Duration) -> [Outcome; 2] {
    let listeners = [(); 2].map(|()| RingListener::bind("127.0.0.1:0").unwrap());
    let peers = [0, 1].map(|rank: usize| listeners[rank].local_addr().unwrap());
    let first = between.map_or(peers[0], |tap| tap.local_addr().unwrap());
    let ways = [peers, [first, peers[1]]];
    thread::scope(|scope| {
        if let Some(tap) = between {
            scope.spawn(move || stand_between(tap, peers[0]));
        }
        let join = |rank: usize| {
            let membership = Membership {
                rank,
                peers: &ways[rank],
                group: GroupId(1),
                secret: &SECRET,
                seal: seals[rank],
                deadline,
            };
            let listener = &listeners[rank];
            scope.spawn(move || Ring::join(listener, &membership, &AbortHandle::new()))
        };
        [join(0), join(1)].map(|thread| thread.join().unwrap())
    })
}

type Outcome = Result<Ring, CollectiveError>;

/// Ends TLS on both sides with a seal of its own, and passes a handshake on as far as it goes.
fn stand_between(tap: &TcpListener, victim: SocketAddr) {
    let (seal, until) = (Seal::new().unwrap(), after(SHORT));
    let (near, _) = tap.accept().unwrap();
    let far = TcpStream::connect(victim).unwrap();
    let mut near = Wire::seal(Arc::new(near), seal.acceptor().unwrap(), until).unwrap();
    let mut far = Wire::seal(Arc::new(far), seal.connector().unwrap(), until).unwrap();
    far.say(&near.hear::<64>(until).unwrap()).unwrap();
    near.say(&far.hear::<64>(until).unwrap()).unwrap();
    near.hear::<32>(until)
        .expect_err("a proof was given to somebody between two ranks");
}

#[test]
fn somebody_between_two_ranks_is_given_no_proof() {
    let (seal, tap) = (Seal::new().unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let [_, second] = join([Some(&seal); 2], Some(&tap), SHORT);
    assert!(matches!(second, Err(CollectiveError::Handshake { .. })), "{second:?}");
}

#[test]
fn ranks_with_seals_of_their_own_form_a_ring_and_one_without_is_left_out() {
    let (seal, other) = (Seal::new().unwrap(), Seal::new().unwrap());
    let both = join([Some(&seal), Some(&other)], None, LONG);
    assert!(both.iter().all(Result::is_ok), "{both:?}");
    let one = join([Some(&seal), None], None, SHORT);
    assert!(one.iter().all(Result::is_err), "{one:?}");
}

/// Passes everything on to `victim`; returns what the connector sent, once it has closed.
fn listen_in(tap: &TcpListener, victim: SocketAddr) -> Vec<u8> {
    let (mut near, _) = tap.accept().unwrap();
    let mut far = TcpStream::connect(victim).unwrap();
    let (mut back, mut there) = (far.try_clone().unwrap(), near.try_clone().unwrap());
    thread::spawn(move || std::io::copy(&mut back, &mut there));
    let (mut tape, mut piece) = (Vec::new(), [0; 4_096]);
    while let Ok(read @ 1..) = near.read(&mut piece) {
        tape.extend_from_slice(&piece[..read]);
        far.write_all(&piece[..read]).unwrap();
    }
    tape
}

#[test]
fn gradients_are_read_on_the_way_between_hosts_without_a_seal_and_nowhere_else() {
    let seal = Seal::new().unwrap();
    // Nobody connects from 127.0.0.2, so that ranks there take each other for other hosts'.
    let [here, elsewhere] = ["127.0.0.1:0", "127.0.0.2:0"];
    for (address, seal, is_read) in [
        (elsewhere, None, true),
        (here, None, false),
        (elsewhere, Some(&seal), false),
    ] {
        let listeners = [(); 2].map(|()| RingListener::bind(address).unwrap());
        let peers = [0, 1].map(|rank: usize| listeners[rank].local_addr().unwrap());
        let tap = TcpListener::bind(address).unwrap();
        let ways = [peers, [tap.local_addr().unwrap(), peers[1]]];
        let tape = Mutex::new(Vec::new());
        thread::scope(|scope| {
            scope.spawn(|| *tape.lock().unwrap() = listen_in(&tap, peers[0]));
            for rank in [0, 1] {
                let (way, listener) = (&ways[rank], &listeners[rank]);
                scope.spawn(move || {
                    let membership = Membership {
                        rank,
                        peers: way,
                        group: GroupId(1),
                        secret: &SECRET,
                        seal,
                        deadline: LONG,
                    };
                    let mut ring = Ring::join(listener, &membership, &AbortHandle::new()).unwrap();
                    let mut data = vec![0.1; FLOATS];
                    ring.all_reduce(&mut data).unwrap();
                    assert!(data.iter().all(|sum| *sum == 0.2), "rank {rank}");
                });
            }
        });
        let tape = tape.into_inner().unwrap();
        let gradient = [0.1_f32.to_le_bytes(); 8].concat();
        let holds = |what: &[u8]| tape.windows(what.len()).any(|window| window == what);
        assert_eq!(
            (holds(b"SHRING02"), holds(&gradient)),
            (seal.is_none(), is_read),
            "{address}: {} bytes",
            tape.len()
        );
    }
}
