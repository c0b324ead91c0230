use super::*;
use crate::ports::free_address;
use crate::processes::wait_for;

/// A server that sends back what it gets, its proxy, and a client.
struct Bench {
    proxy: Proxy,
}

impl Bench {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || echo(&stream.unwrap()));
            }
        });
        let proxy = Proxy::start(free_address(), target).unwrap();
        Self { proxy }
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.proxy.address()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }
}

fn echo(mut stream: &TcpStream) {
    let mut piece = [0; 256];
    while let Ok(read @ 1..) = stream.read(&mut piece) {
        if stream.write_all(&piece[..read]).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

fn exchange(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).unwrap();
    let mut back = vec![0; text.len()];
    client.read_exact(&mut back).unwrap();
    assert_eq!(back, text.as_bytes());
}

/// Everything that comes until the connection ends, and whether it ended in an error.
fn rest(client: &mut TcpStream) -> (Vec<u8>, bool) {
    let mut bytes = vec![];
    let failed = client.read_to_end(&mut bytes).is_err();
    (bytes, failed)
}

#[test]
fn bytes_pass_both_ways_and_an_end_of_stream_too() {
    let bench = Bench::new();
    let mut client = bench.client();
    exchange(&mut client, "hello");
    client.write_all(&[7; 100_000]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut client), (vec![7; 100_000], false));
    wait_for("the connection to be forgotten", || {
        bench.proxy.shared.connections().is_empty().then_some(())
    });
}

#[test]
fn one_connection_or_all_are_cut_at_once() {
    let bench = Bench::new();
    let mut clients: Vec<TcpStream> = (0..3).map(|_| bench.client()).collect();
    clients.iter_mut().for_each(|client| exchange(client, "hello"));
    assert_eq!(bench.proxy.cut(Which::One(4), Cut::Now), 1);
    assert!(rest(&mut clients[1]).0.is_empty());
    exchange(&mut clients[0], "the others live");
    exchange(&mut clients[2], "the others live");
    bench.proxy.cut(Which::All, Cut::Now);
    assert!(rest(&mut clients[0]).0.is_empty());
    assert!(rest(&mut clients[2]).0.is_empty());
    exchange(&mut bench.client(), "a new one lives");
}

#[test]
fn a_message_is_cut_in_its_middle() {
    let bench = Bench::new();
    let mut client = bench.client();
    exchange(&mut client, "hello");
    let cut = Cut::After {
        direction: Direction::ToClient,
        bytes: 3,
    };
    bench.proxy.cut(Which::All, cut);
    client.write_all(b"a message").unwrap();
    let mut begin = [0; 3];
    client.read_exact(&mut begin).unwrap();
    assert_eq!(&begin, b"a m");
    assert!(rest(&mut client).0.is_empty());
}

#[test]
fn one_direction_ends_and_the_other_goes_on() {
    let bench = Bench::new();
    let mut client = bench.client();
    exchange(&mut client, "hello");
    bench.proxy.cut(Which::All, Cut::OneWay(Direction::ToClient));
    assert_eq!(rest(&mut client), (vec![], false));
    client.write_all(b"into the void").unwrap();
    let mut other = bench.client();
    exchange(&mut other, "hello");
    bench.proxy.cut(Which::All, Cut::OneWay(Direction::ToTarget));
    assert_eq!(
        rest(&mut other),
        (vec![], false),
        "the server saw the end, and ended too"
    );
}

#[test]
fn what_is_stalled_comes_later_and_can_be_cut() {
    let bench = Bench::new();
    let (mut client, mut doomed) = (bench.client(), bench.client());
    exchange(&mut client, "hello");
    exchange(&mut doomed, "hello");
    bench.proxy.stall();
    client.write_all(b"later").unwrap();
    doomed.write_all(b"never").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(client.read(&mut [0]).is_err(), "nothing comes");
    bench.proxy.cut(Which::One(1), Cut::Now);
    assert!(rest(&mut doomed).0.is_empty());
    bench.proxy.resume();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut back = [0; 5];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"later");
}

#[test]
fn a_shut_proxy_refuses_and_an_open_one_takes_connections_again() {
    let mut bench = Bench::new();
    let mut before = bench.client();
    exchange(&mut before, "hello");
    for _ in 0..3 {
        bench.proxy.shut();
        let refused = TcpStream::connect(bench.proxy.address()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        exchange(&mut before, "old ones live on");
        bench.proxy.open().unwrap();
        exchange(&mut bench.client(), "hello");
    }
}

#[test]
fn a_client_of_a_dead_target_sees_its_connection_closed() {
    let proxy = Proxy::start(free_address(), free_address()).unwrap();
    let mut client = TcpStream::connect(proxy.address()).unwrap();
    assert!(rest(&mut client).0.is_empty());
}
