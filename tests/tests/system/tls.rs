//! Coordinator, workers, a gateway and watchers whose links run under TLS.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use stillhouse_core::job::JobSpec;
use stillhouse_tests::jobs;
use stillhouse_tests::mortal::Mortal;
use stillhouse_tests::outcomes::Outcome;
use stillhouse_tests::ports::free_address;
use stillhouse_tests::processes::{Running, stillhouse, wait_for};
use stillhouse_tests::proxy::Proxy;
use stillhouse_tests::redis::{Persistence, RedisServer, program};

use crate::cluster::{TOKEN, say};
use crate::world::{World, alone, coordinator, gateway, skipped, undisturbed, worker};

/// The name in the certificate, which is not the address.
const NAME: &str = "coordinator.test";

/// The files of an authority and of the certificate that it signed.
struct Certificates {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificates {
    fn make(folder: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([NAME.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let write = |name: &str, pem: String| {
            let path = folder.join(name);
            fs::write(&path, pem).unwrap();
            path
        };
        Self {
            authority: write("ca.crt", issuer.pem()),
            certificate: write("tls.crt", certificate.pem()),
            key: write("tls.key", key.serialize_pem()),
        }
    }

    /// Has `command` connect under TLS: by options, or by the environment.
    fn trusted_by(&self, mut command: Command, by_options: bool) -> Command {
        if by_options {
            command.arg("--tls-ca").arg(&self.authority);
            command.args(["--tls-server-name", NAME]);
        } else {
            command.env("STILLHOUSE_TLS_CA", &self.authority);
            command.env("STILLHOUSE_TLS_SERVER_NAME", NAME);
        }
        command
    }
}

/// A coordinator under TLS behind a proxy that listens in.
struct Cluster {
    // Ends before the folder goes.
    peers: Vec<Mortal>,
    /// For the queue of the job.
    _redis: RedisServer,
    proxy: Proxy,
    world: World,
    certificates: Certificates,
    job: JobSpec,
    address: SocketAddr,
}

impl Cluster {
    /// `None` when there is no Redis on this machine.
    fn new() -> Option<Self> {
        let Some(redis) = program() else {
            skipped("redis-server is not installed");
            return None;
        };
        let (world, address) = (World::new(), free_address());
        let redis = RedisServer::start(&redis, &world.path().join("redis"), Persistence::Nothing).unwrap();
        let mut job = jobs::three_rounds(&world.url());
        job.spec.workers.min = 2;
        job.spec.queue = Some(jobs::queue_at(redis.address()));
        let proxy = Proxy::start(free_address(), address).unwrap();
        proxy.record();
        let certificates = Certificates::make(world.path());
        let peers = [
            worker(proxy.address(), TOKEN),
            worker(proxy.address(), TOKEN),
            gateway(proxy.address(), TOKEN),
        ];
        let peers = peers.into_iter().enumerate().map(|(number, command)| {
            let command = certificates.trusted_by(command, number > 0);
            Mortal::new(command, &world.path().join(format!("peer-{number}.log")))
        });
        Some(Self {
            peers: peers.collect(),
            _redis: redis,
            proxy,
            certificates,
            world,
            job,
            address,
        })
    }

    fn start(&self) -> (Running, Outcome) {
        let dir = self.world.path().join("job");
        let file = jobs::write(self.world.path(), &self.job);
        let mut command = coordinator(&file, &dir, self.address, TOKEN);
        command.arg("--no-gateway");
        command.arg("--tls-cert").arg(&self.certificates.certificate);
        command.arg("--tls-key").arg(&self.certificates.key);
        (Running::start(command), Outcome::of(&dir))
    }
}

/// Words of the job that its messages have in clear.
const WORDS: [&[u8]; 2] = [b"SHLINK02", b"small-digits"];

#[test]
fn a_job_under_tls_is_the_same_job_and_nothing_of_it_is_read_on_the_way() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::new() else { return };
    cluster.peers.iter_mut().for_each(Mortal::start);
    let (mut running, outcome) = cluster.start();
    assert!(running.lives_until(|| outcome.events_called("worker-joined") == 2));

    // From this machine, by the directory alone, and from elsewhere.
    let dir = outcome.file("");
    let (well, seen) = say(&["status", dir.to_str().unwrap()], Some(TOKEN));
    assert!(well && seen.contains("running for"), "{seen}");
    let authority = cluster.certificates.authority.to_str().unwrap();
    let address = cluster.proxy.address().to_string();
    let elsewhere = ["status", "--coordinator", &address];
    let trusting = [&elsewhere[..], &["--tls-ca", authority, "--tls-server-name", NAME]].concat();
    let (well, seen) = say(&trusting, Some(TOKEN));
    assert!(well && seen.contains("running for"), "{seen}");

    // Those who were started the wrong way are told the right one.
    let (well, seen) = say(&elsewhere, Some(TOKEN));
    assert!(
        !well && seen.contains("name its certificate authority with --tls-ca"),
        "{seen}"
    );
    let (well, seen) = say(&[&elsewhere[..], &["--tls-ca", authority]].concat(), Some(TOKEN));
    assert!(!well && seen.contains("not valid for name"), "{seen}");
    let plain = worker(cluster.address, TOKEN).output().unwrap();
    let said = String::from_utf8(plain.stderr).unwrap();
    assert_eq!(plain.status.code(), Some(8), "{said}");
    assert!(said.contains("name its certificate authority with --tls-ca"), "{said}");

    let finished = running.wait().succeeded();
    assert_eq!(outcome.essence(), undisturbed().essence);
    outcome.settle(&cluster.world.bill());
    for peer in &mut cluster.peers {
        let status = wait_for("a worker or gateway to end with the job", || peer.ended());
        assert!(status.success(), "{status}");
    }
    let dropped: Vec<&str> = finished
        .stderr
        .lines()
        .filter(|line| line.contains("dropped a link"))
        .collect();
    assert_eq!(dropped.len(), 3, "one line each: {dropped:?}");
    // The plain `status` said hello before it was turned away, and no more.
    assert!(!cluster.proxy.heard(WORDS[1]));
}

#[test]
fn what_is_not_read_under_tls_is_read_without() {
    let _alone = alone();
    let Some(mut cluster) = Cluster::new() else { return };
    cluster.peers.iter_mut().for_each(Mortal::start);
    let (mut running, outcome) = cluster.start();
    assert!(running.lives_until(|| outcome.events_called("worker-joined") == 2));
    assert!(WORDS.iter().all(|words| !cluster.proxy.heard(words)));
    // The address for processes of this machine has no TLS.
    let whereabouts: serde_json::Value =
        serde_json::from_slice(&fs::read(outcome.file("coordinator.json")).unwrap()).unwrap();
    let nearby: SocketAddr = whereabouts["address"].as_str().unwrap().parse().unwrap();
    assert_ne!(nearby, cluster.address);
    let listening = Proxy::start(free_address(), nearby).unwrap();
    listening.record();
    let (well, seen) = say(
        &["status", "--coordinator", &listening.address().to_string()],
        Some(TOKEN),
    );
    assert!(well, "{seen}");
    assert!(WORDS.iter().all(|words| listening.heard(words)));
    running.kill_everything();
}

#[test]
fn certificates_of_no_use_are_refused_before_anything_is_asked() {
    let world = World::new();
    let certificates = Certificates::make(world.path());
    let file = jobs::write(world.path(), &jobs::one_round(&world.url()));
    let coordinator = |certificate: &Path, key: &Path| {
        let mut command = stillhouse();
        command
            .arg("coordinator")
            .arg(&file)
            .arg("--dir")
            .arg(world.path().join("job"));
        command.args(["--listen", "127.0.0.1:0"]);
        command.arg("--tls-cert").arg(certificate).arg("--tls-key").arg(key);
        Running::start(command).wait().refused(2).error
    };
    let (certificate, key) = (&certificates.certificate, &certificates.key);
    let said = coordinator(&world.path().join("none.crt"), key);
    assert!(said.contains("failed to read") && said.contains("none.crt"), "{said}");
    let said = coordinator(certificate, certificate);
    assert!(said.contains("expected a private key"), "{said}");
    let said = coordinator(&certificates.authority, key);
    assert!(said.contains("expected the key of the certificate"), "{said}");
    let mut trusting = gateway(free_address(), TOKEN);
    trusting.arg("--tls-ca").arg(key);
    let said = Running::start(trusting).wait().refused(2).error;
    assert!(said.contains("expected certificates in PEM"), "{said}");
    assert!(world.bill().is_empty());
}
