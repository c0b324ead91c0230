//! The conformance suite over every implementation.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::Duration,
};

use stillhouse_collective::{
    AbortHandle, GroupId, Local, Membership, Ring, RingListener, Seal,
    conformance::{self, Member},
};

/// Long enough that reaching it means a hang, and fails the check.
const DEADLINE: Duration = Duration::from_secs(60);

fn local(_world_size: usize) -> Vec<Member> {
    vec![Member {
        collective: Box::new(Local),
        abort: None,
    }]
}

/// One host's ranks: floats go through memory that neighbours share.
fn ring(world_size: usize) -> Vec<Member> {
    world(world_size, Ipv4Addr::LOCALHOST, None)
}

/// Ranks that cannot tell that they are on one host: nobody connects from this address.
fn ring_of_hosts(world_size: usize) -> Vec<Member> {
    world(world_size, Ipv4Addr::new(127, 0, 0, 2), None)
}

fn sealed_ring(world_size: usize) -> Vec<Member> {
    let seal = Seal::new().expect("the system has random bytes");
    world(world_size, Ipv4Addr::LOCALHOST, Some(&seal))
}

fn world(world_size: usize, address: Ipv4Addr, seal: Option<&Seal>) -> Vec<Member> {
    let listeners: Vec<_> = (0..world_size)
        .map(|_| RingListener::bind((address, 0)).expect("loopback has a free port"))
        .collect();
    let peers: Vec<SocketAddr> = listeners
        .iter()
        .map(|listener| listener.local_addr().expect("a bound socket has an address"))
        .collect();
    thread::scope(|scope| {
        let join = |rank: usize| {
            let (listener, peers) = (&listeners[rank], &peers);
            scope.spawn(move || {
                let membership = Membership {
                    rank,
                    peers,
                    group: GroupId(1),
                    secret: &[7; 32],
                    seal,
                    deadline: DEADLINE,
                };
                Ring::join(listener, &membership, &AbortHandle::new()).expect("all members join")
            })
        };
        let members: Vec<_> = (0..world_size).map(join).collect();
        members
            .into_iter()
            .map(|member| member.join().expect("joining does not panic"))
            .map(member)
            .collect()
    })
}

fn member(ring: Ring) -> Member {
    let abort = ring.abort_handle();
    Member {
        collective: Box::new(ring),
        abort: Some(Box::new(move || abort.abort())),
    }
}

#[test]
fn a_world_of_one_conforms() {
    conformance::check(&local, &[1]);
}

#[test]
fn a_ring_of_one_or_two_conforms() {
    conformance::check(&ring, &[1, 2]);
}

#[test]
fn a_ring_of_three_to_five_conforms() {
    conformance::check(&ring, &[3, 4, 5]);
}

#[test]
fn a_ring_of_six_to_eight_conforms() {
    conformance::check(&ring, &[6, 7, 8]);
}

#[test]
fn a_ring_over_sockets_of_one_to_three_conforms() {
    conformance::check(&ring_of_hosts, &[1, 2, 3]);
}

#[test]
fn a_ring_over_sockets_of_five_conforms() {
    conformance::check(&ring_of_hosts, &[5]);
}

#[test]
fn a_sealed_ring_of_one_to_three_conforms() {
    conformance::check(&sealed_ring, &[1, 2, 3]);
}

#[test]
fn a_sealed_ring_of_five_conforms() {
    conformance::check(&sealed_ring, &[5]);
}

#[test]
#[ignore = "moves 25 million floats among up to four ranks: 1 GB of memory"]
fn a_ring_adds_the_gradient_of_a_large_student() {
    for world_size in [2, 3, 4] {
        conformance::all_reduce_sums(&ring, world_size, 25_000_000);
        conformance::all_reduce_sums(&ring_of_hosts, world_size, 25_000_000);
        conformance::all_reduce_sums(&sealed_ring, world_size, 25_000_000);
    }
}
