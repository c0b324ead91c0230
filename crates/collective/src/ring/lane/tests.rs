//! Lanes between threads of one process, which find each other as processes do.

use std::{
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::ring::after;

/// Reaching it means a hang.
const LONG: Duration = Duration::from_secs(60);

/// Both ends of a connection to `address`.
fn wires(address: &str) -> (Wire, Wire) {
    let listener = TcpListener::bind(address).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    (Wire::clear(Arc::new(near)), Wire::clear(Arc::new(far)))
}

/// What an offer over the connection comes to, at either end.
fn meet(near: &mut Wire, far: &mut Wire) -> (Option<Lane>, Option<Lane>) {
    let until = after(LONG);
    thread::scope(|scope| {
        let accepting = scope.spawn(|| Lane::accept(far, until).unwrap());
        let offered = Lane::offer(near, until).unwrap();
        (offered, accepting.join().unwrap())
    })
}

fn lanes() -> (Lane, Lane) {
    let (mut near, mut far) = wires("127.0.0.1:0");
    let (sender, receiver) = meet(&mut near, &mut far);
    (sender.expect("offered"), receiver.expect("accepted"))
}

/// What an acceptor makes of an offer.
fn answer_to(offer: &Offer) -> Option<Lane> {
    let (mut near, mut far) = wires("127.0.0.1:0");
    near.say(&offer.encode()).unwrap();
    let lane = Lane::accept(&mut far, after(LONG)).unwrap();
    let answer = near.hear(after(LONG)).unwrap();
    assert_eq!(answer, if lane.is_some() { TAKEN } else { REFUSED });
    lane
}

#[test]
fn frames_arrive_in_order_and_slots_come_back() {
    let (mut sender, mut receiver) = lanes();
    let frame = |number: usize| -> Vec<f32> { (0..1 + number % 5).map(|at| (number * 10 + at) as f32).collect() };
    let (mut sent, mut received) = (0, 0);
    while received < 5 * SLOTS + 3 {
        sender.regain().unwrap();
        while sender.has_room() {
            sender.put(&frame(sent));
            sent += 1;
        }
        let expected = frame(received);
        receiver.take(expected.len(), |came| assert_eq!(came, expected));
        received += 1;
        assert!(sent - received <= SLOTS, "a frame was written over");
    }
}

#[test]
fn a_frame_fills_its_slot_and_no_other() {
    let (mut sender, mut receiver) = lanes();
    for slot in 0..SLOTS {
        sender.put(&vec![slot as f32; MAX_FLOATS]);
    }
    assert!(!sender.has_room());
    for slot in 0..SLOTS {
        receiver.take(MAX_FLOATS, |came| {
            assert!(came.iter().all(|&float| float == slot as f32))
        });
    }
}

#[test]
#[should_panic(expected = "outside the memory")]
fn a_frame_that_fits_no_slot_is_never_written() {
    let (mut sender, _receiver) = lanes();
    sender.put(&vec![0.0; MAX_FLOATS + 1]);
}

#[test]
fn ends_at_different_addresses_share_nothing() {
    let (mut near, mut far) = wires("127.0.0.2:0");
    assert!(matches!(meet(&mut near, &mut far), (None, None)));
    near.say(b"on").unwrap();
    assert_eq!(&far.hear::<2>(after(LONG)).unwrap(), b"on", "the connection goes on");
}

#[test]
fn memory_without_the_mark_is_refused() {
    let (_lane, mut offer) = Lane::make().unwrap();
    assert!(answer_to(&offer).is_some());
    offer.mark[31] ^= 1;
    assert!(answer_to(&offer).is_none());
}

#[test]
fn what_is_no_memory_of_a_ring_or_no_pipe_is_refused() {
    let (_lane, mut offer) = Lane::make().unwrap();
    // Of another size, not held at its size, an ordinary file, a socket.
    let (_small, small) = Memory::create(1, MAX_FLOATS).unwrap();
    let loose = memfd_create("loose", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    File::from(loose.try_clone().unwrap())
        .set_len((SLOTS * MAX_FLOATS * size_of::<f32>()) as u64)
        .unwrap();
    let file = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    let (socket, _other) = wires("127.0.0.1:0");
    let socket = socket.stream().as_fd().try_clone_to_owned().unwrap();
    for descriptor in [small, loose, file.into(), socket] {
        let right = std::mem::replace(&mut offer.memory, descriptor);
        assert!(answer_to(&offer).is_none());
        offer.memory = right;
    }
    let closed = std::mem::replace(&mut offer.pipe, offer.memory.try_clone().unwrap()).as_raw_fd();
    assert!(answer_to(&offer).is_none(), "descriptor {closed} was no pipe any more");
}

#[test]
fn slots_that_were_never_away_are_not_taken_back() {
    let (mut sender, mut receiver) = lanes();
    sender.put(&[1.0]);
    receiver.pipe.write_all(&[1]).unwrap();
    sender.regain().unwrap();
    receiver.pipe.write_all(&[1]).unwrap();
    assert!(sender.regain().is_err());
}

#[test]
fn a_receiver_that_is_gone_is_left_to_the_socket_to_tell() {
    let (mut sender, receiver) = lanes();
    sender.put(&[1.0]);
    drop(receiver);
    sender.regain().unwrap();
}
