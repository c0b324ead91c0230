//! Links under TLS, with certificates that are made here.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{
        TcpListener,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};
use tracing::instrument::WithSubscriber;

use super::*;
use crate::logging;

const MAX: usize = 1 << 20;
const NAME: &str = "coordinator.test";

fn secret(byte: u8) -> Secret {
    Secret::from_hex(&format!("{byte:02x}").repeat(32)).unwrap()
}

/// An authority and what it signs, in a folder.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { folder, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes certificate and key `name` for [`NAME`] and loopback, valid to the end of `year`.
    fn sign(&self, name: &str, year: i32) -> Identity {
        let mut params = CertificateParams::new([NAME.to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        // One after the other, as a careless hand replaces them.
        fs::write(self.path(&format!("{name}.crt")), certificate.pem()).unwrap();
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        self.identity(name)
    }

    fn identity(&self, name: &str) -> Identity {
        Identity::load(&self.path(&format!("{name}.crt")), &self.path(&format!("{name}.key"))).unwrap()
    }

    fn trust(&self, name: &str) -> Trust {
        Trust::load(&self.path("ca.pem"), name).unwrap()
    }
}

/// A listener that knows `secret(1)`.
async fn listener(identity: Option<Identity>) -> (Listener, SocketAddr) {
    let listener = Listener::bind("127.0.0.1:0", secret(1), |_| MAX).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener.under(identity), address)
}

fn target(address: SocketAddr, byte: u8, trust: Option<Trust>) -> Target {
    Target {
        trust,
        ..Target::plain(address, secret(byte))
    }
}

/// What comes of one attempt to make a link to a listener that goes on listening.
async fn attempt(listener: &mut Listener, target: &Target) -> Result<Connection, LinkError> {
    tokio::select! {
        connected = connect(target, Purpose::Worker, MAX) => connected,
        () = listen(listener) => unreachable!("it listens for ever"),
    }
}

async fn listen(listener: &mut Listener) {
    loop {
        drop(listener.accept().await);
    }
}

/// The whole chain of an error, as the programs print it.
fn chain(error: &LinkError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string);
    format!("{error}: {}", source.unwrap_or_default())
}

#[tokio::test]
async fn frames_of_every_size_go_both_ways_under_tls() {
    let authority = Authority::new();
    let (mut listener, address) = listener(Some(authority.sign("a", 2999))).await;
    let target = target(address, 1, Some(authority.trust(NAME)));
    let (accepted, connected) = tokio::join!(listener.accept(), connect(&target, Purpose::Gateway, MAX));
    assert_eq!(accepted.purpose(), Purpose::Gateway);
    let (sender, mut receiver) = connected.unwrap().split();
    let (echo, mut heard) = accepted.split();
    let echoing = tokio::spawn(async move {
        while let Some(frame) = heard.recv().await.unwrap() {
            echo.send(frame).await.unwrap();
        }
    });
    let sizes = [0, 1, 100, MAX, 17_000, 0, MAX - 1];
    let sending = tokio::spawn(async move {
        for (i, size) in sizes.into_iter().enumerate() {
            sender.send(vec![i as u8; size]).await.unwrap();
        }
        sender.flush().await.unwrap();
    });
    for (i, size) in sizes.into_iter().enumerate() {
        assert!(
            receiver.recv().await.unwrap().unwrap() == vec![i as u8; size],
            "frame {i}"
        );
    }
    sending.await.unwrap();
    // The last sender's end is an end that was announced, both ways.
    assert_eq!(receiver.recv().await.unwrap(), None);
    echoing.await.unwrap();
}

#[tokio::test]
async fn an_end_that_was_not_announced_is_a_loss() {
    let authority = Authority::new();
    let (mut listener, address) = listener(Some(authority.sign("a", 2999))).await;
    let trust = authority.trust(NAME);
    let cut = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let secret = secret(1);
        let stream = open::greet(stream, &secret, Some(&trust), Purpose::Worker).await;
        let Ok(Stream::Tls(stream)) = stream else {
            panic!("no session")
        };
        // As the system closes the connections of a process that was killed.
        drop(stream);
    };
    let (accepted, ()) = tokio::join!(listener.accept(), cut);
    let lost = accepted.split().1.recv().await;
    assert!(matches!(lost, Err(LinkError::Lost { .. })), "{lost:?}");
}

#[tokio::test]
async fn plain_and_tls_ends_tell_each_other_what_to_do() {
    let authority = Authority::new();
    let (mut shielded, address) = listener(Some(authority.sign("a", 2999))).await;
    let error = attempt(&mut shielded, &target(address, 1, None)).await.unwrap_err();
    assert!(
        matches!(error, LinkError::Protection { .. }) && error.is_final(),
        "{error:?}"
    );
    assert!(
        error
            .to_string()
            .contains("speaks TLS: name its certificate authority with --tls-ca"),
        "{error}"
    );

    let (mut plain, address) = listener(None).await;
    let trusting = target(address, 1, Some(authority.trust(NAME)));
    let error = attempt(&mut plain, &trusting).await.unwrap_err();
    assert!(
        matches!(error, LinkError::Protection { .. }) && error.is_final(),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("does not speak TLS: leave --tls-ca away"),
        "{error}"
    );
}

#[tokio::test]
async fn a_certificate_of_another_authority_or_name_or_time_is_not_believed() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (mut good, address) = listener(Some(authority.sign("good", 2999))).await;
    let (mut expired, late) = listener(Some(authority.sign("expired", 2021))).await;
    for (trust, why) in [
        // Of the same name, with another key.
        (other.trust(NAME), "BadSignature"),
        (authority.trust("elsewhere.test"), "not valid for name"),
        (authority.trust("127.0.0.2"), "not valid for name"),
    ] {
        let error = attempt(&mut good, &target(address, 1, Some(trust))).await.unwrap_err();
        assert!(
            matches!(error, LinkError::Untrusted { .. }) && error.is_final(),
            "{error:?}"
        );
        assert!(chain(&error).contains(why), "{}", chain(&error));
    }
    let error = attempt(&mut expired, &target(late, 1, Some(authority.trust(NAME)))).await;
    let error = error.unwrap_err();
    assert!(matches!(error, LinkError::Untrusted { .. }), "{error:?}");
    assert!(chain(&error).contains("expired"), "{}", chain(&error));
    let by_address = target(address, 1, Some(authority.trust("127.0.0.1")));
    attempt(&mut good, &by_address).await.unwrap();
}

#[tokio::test]
async fn a_right_certificate_is_no_token() {
    let authority = Authority::new();
    let (mut listener, address) = listener(Some(authority.sign("a", 2999))).await;
    let stranger = target(address, 2, Some(authority.trust(NAME)));
    let error = attempt(&mut listener, &stranger).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused { .. }), "{error:?}");
}

/// Ends TLS on both sides, with a certificate that is just as good, and passes every byte on.
async fn stand_between(authority: &Authority, target: SocketAddr) -> SocketAddr {
    let (identity, trust) = (authority.sign("between", 2999), authority.trust(NAME));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let (mut near, _) = tls::accept(near, &identity).await.unwrap();
        let far = TcpStream::connect(target).await.unwrap();
        let (mut far, _) = tls::connect(far, &trust).await.unwrap();
        let _ = copy_bidirectional(&mut near, &mut far).await;
    });
    address
}

#[tokio::test]
async fn a_proof_that_is_relayed_from_another_session_is_refused() {
    let authority = Authority::new();
    let (mut listener, address) = listener(Some(authority.sign("a", 2999))).await;
    let between = stand_between(&authority, address).await;
    let relayed = target(between, 1, Some(authority.trust(NAME)));
    let error = attempt(&mut listener, &relayed).await.unwrap_err();
    assert!(matches!(error, LinkError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn a_certificate_that_was_replaced_counts_from_the_next_link_on() {
    let authority = Authority::new();
    let (mut listener, address) = listener(Some(authority.sign("a", 2021))).await;
    let target = target(address, 1, Some(authority.trust(NAME)));
    let error = attempt(&mut listener, &target).await.unwrap_err();
    assert!(chain(&error).contains("expired"), "{error:?}");
    authority.sign("a", 2999);
    attempt(&mut listener, &target).await.unwrap();
    // What cannot be used does not count.
    fs::write(authority.path("a.key"), "no key").unwrap();
    attempt(&mut listener, &target).await.unwrap();
    fs::remove_file(authority.path("a.crt")).unwrap();
    attempt(&mut listener, &target).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_was_replaced_counts_from_the_next_link_on() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (mut listener, address) = listener(Some(authority.sign("a", 2999))).await;
    let target = target(address, 1, Some(other.trust(NAME)));
    let error = attempt(&mut listener, &target).await.unwrap_err();
    assert!(matches!(error, LinkError::Untrusted { .. }), "{error:?}");
    fs::copy(authority.path("ca.pem"), other.path("ca.pem")).unwrap();
    attempt(&mut listener, &target).await.unwrap();
    fs::write(other.path("ca.pem"), "").unwrap();
    let error = attempt(&mut listener, &target).await.unwrap_err();
    assert!(
        matches!(error, LinkError::Trust { .. }) && !error.is_final(),
        "{error:?}"
    );
}

#[test]
fn files_that_are_of_no_use_are_refused_with_a_sentence() {
    let authority = Authority::new();
    authority.sign("a", 2999);
    authority.sign("b", 2999);
    let path = |name: &str| authority.path(name);
    fs::write(path("empty"), "").unwrap();
    let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    fs::write(path("garbled"), garbled).unwrap();
    let identity = |cert: &str, key: &str| Identity::load(&path(cert), &path(key)).unwrap_err().to_string();
    assert!(identity("none", "a.key").starts_with("failed to read"));
    assert!(identity("empty", "a.key").starts_with("expected certificates in PEM"));
    assert!(identity("a.crt", "a.crt").starts_with("expected a private key that is not encrypted in PEM"));
    assert!(identity("a.crt", "b.key").starts_with("expected the key of the certificate"));
    assert!(identity("garbled", "a.key").starts_with("cannot use what is in"));
    let trust = |ca: &str, name: &str| Trust::load(&path(ca), name).unwrap_err().to_string();
    assert!(trust("none", NAME).starts_with("failed to read"));
    assert!(trust("a.key", NAME).starts_with("expected certificates in PEM"));
    assert!(trust("garbled", NAME).starts_with("cannot use what is in"));
    assert!(trust("ca.pem", "no name").starts_with("expected a host name or an IP address"));
}

/// Log lines, one after the other.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn take(&self) -> String {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        String::from_utf8(bytes).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What strangers send to a listener under TLS, and what is logged about it.
fn hostilities() -> Vec<(Vec<u8>, &'static str)> {
    // A record of the handshake that announces a ClientHello of 16 MiB, and as much as a record may hold.
    let mut huge = vec![0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    huge.resize(5 + 0x4000, 0);
    vec![
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "does not speak TLS"),
        (vec![0xff; 100_000], "does not speak TLS"),
        ([&[0x16, 3, 1, 0, 9][..], &[0xee; 9]].concat(), "failed to speak TLS"),
        (huge, "failed to speak TLS"),
        (vec![0x16; 4_096], "failed to speak TLS"),
        (Vec::new(), "lost the link"),
        (vec![0x16], "lost the link"),
    ]
}

#[tokio::test]
async fn a_hostile_peer_costs_one_line_and_holds_nobody_up() {
    let authority = Authority::new();
    let (mut listener, address) = listener(Some(authority.sign("a", 2999))).await;
    let good = target(address, 1, Some(authority.trust(NAME)));
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = logging::subscriber(logging::Format::Human, "warn", move || writer.clone()).unwrap();
    let besieged = async {
        for (bytes, reason) in hostilities() {
            let mut raw = TcpStream::connect(address).await.unwrap();
            // It may be turned away half-way, and hears at most why.
            let hostile = async {
                let _ = raw.write_all(&bytes).await;
                let _ = raw.shutdown().await;
                while raw.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            };
            tokio::select! {
                () = hostile => {}
                () = listen(&mut listener) => unreachable!("it listens for ever"),
            }
            // Its line may be written after its connection is closed.
            let said = loop {
                attempt(&mut listener, &good).await.unwrap();
                let said = lines.take();
                if !said.is_empty() {
                    break said;
                }
            };
            assert_eq!(said.lines().count(), 1, "{said}");
            assert!(said.contains(reason), "expected {reason}, found {said}");
        }
    };
    besieged.with_subscriber(subscriber).await;
}

#[tokio::test]
async fn silent_peers_hold_nobody_up() {
    let authority = Authority::new();
    let (mut listener, address) = listener(Some(authority.sign("a", 2999))).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let good = target(address, 1, Some(authority.trust(NAME)));
    attempt(&mut listener, &good).await.unwrap();
}

#[tokio::test]
async fn a_silent_peer_has_the_deadline_of_the_whole_handshake() {
    let authority = Authority::new();
    let identity = authority.sign("a", 2999);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let secret = secret(1);
    let admitted = open::admit(stream, &secret, Some(&identity));
    let outcome = handshake::within(Duration::from_millis(50), peer, admitted).await;
    assert!(matches!(outcome, Err(LinkError::HandshakeDeadline { .. })));
}

/// Everything that passes, in both directions.
async fn tap(target: SocketAddr) -> (SocketAddr, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tape = tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(target).await.unwrap();
        let (near, far) = (near.into_split(), far.into_split());
        let pass = async |(mut from, mut to): (OwnedReadHalf, OwnedWriteHalf)| {
            let (mut tape, mut piece) = (Vec::new(), vec![0; 4_096]);
            while let Ok(read @ 1..) = from.read(&mut piece).await {
                tape.extend_from_slice(&piece[..read]);
                to.write_all(&piece[..read]).await.unwrap();
            }
            let _ = to.shutdown().await;
            tape
        };
        let (there, back) = tokio::join!(pass((near.0, far.1)), pass((far.0, near.1)));
        [there, back].concat()
    });
    (address, tape)
}

#[tokio::test]
async fn nothing_is_said_in_clear() {
    let word = b"what only the two ends may know";
    let authority = Authority::new();
    for (identity, trust, is_clear) in [
        (None, None, true),
        (Some(authority.sign("a", 2999)), Some(authority.trust(NAME)), false),
    ] {
        let (mut listener, address) = listener(identity).await;
        let (tapped, tape) = tap(address).await;
        let target = target(tapped, 1, trust);
        let (accepted, connected) = tokio::join!(listener.accept(), connect(&target, Purpose::Worker, MAX));
        let (sender, receiver) = connected.unwrap().split();
        let (echo, mut heard) = accepted.split();
        sender.send(word.to_vec()).await.unwrap();
        assert_eq!(heard.recv().await.unwrap().unwrap(), word[..]);
        drop((sender, echo));
        assert_eq!(heard.recv().await.unwrap(), None);
        drop((receiver, heard));
        let tape = tape.await.unwrap();
        let holds = |what: &[u8]| tape.windows(what.len()).any(|window| window == what);
        assert_eq!((holds(word), holds(&handshake::MAGIC)), (is_clear, is_clear));
    }
}
