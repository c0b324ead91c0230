//! Passwords, certificates, and servers that are not fit.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use stillhouse_queue::conformance::{delivered, ids, lease_all, references};
use stillhouse_queue::stream::Credential;
use stillhouse_queue::{Queue, QueueError, RedisConfig, RedisQueue};

use crate::server::{Server, free_port};

/// Why a queue cannot be opened: something that a person has to mend.
async fn refusal(config: RedisConfig) -> String {
    match RedisQueue::open_as_dispatcher(config, 1).await {
        Err(QueueError::Refused { reason }) => reason,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it opened"),
    }
}

async fn works(config: RedisConfig) {
    let queue = RedisQueue::open_as_dispatcher(config, 1).await.unwrap();
    queue.push(references(0..3)).await.unwrap();
    let leases = lease_all(&queue, 3).await;
    assert_eq!(delivered(&leases), references(0..3));
    queue.nack(&ids(&leases)).await.unwrap();
    assert_eq!(queue.reclaim(std::time::Duration::ZERO).await, Ok(0));
    assert_eq!(queue.depth().await, Ok(3));
    queue.leave().await;
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_told() {
    let Some(server) = Server::start_with(&["--requirepass", "hunter2"]) else {
        return;
    };
    let address = format!("127.0.0.1:{}", server.port());
    for url in [format!("redis://{address}"), format!("redis://:swordfish@{address}")] {
        let reason = refusal(RedisConfig::new(url, "test")).await;
        assert!(reason.contains("denies access"), "{reason}");
        assert!(!reason.contains("swordfish") && !reason.contains("hunter2"), "{reason}");
    }
    let path = server.folder().join("password");
    std::fs::write(&path, "hunter2\n").unwrap();
    let mut config = server.config();
    config.password = Some(Credential::File(path));
    works(config).await;
}

#[tokio::test]
async fn a_user_needs_no_more_than_the_documented_rights() {
    let rights = "alice on >s3cret ~stillhouse:* +@connection +@stream +@hash +@scripting +info +type +unlink +exists";
    let arguments: Vec<&str> = ["--user"].into_iter().chain(rights.split(' ')).collect();
    let Some(server) = Server::start_with(&arguments) else {
        return;
    };
    let mut config = server.config();
    config.url = config.url.replace("://", "://alice:s3cret@");
    works(config).await;
}

#[tokio::test]
async fn a_server_that_may_drop_keys_is_refused_with_the_mend() {
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let Some(server) = Server::start_with(&["--maxmemory-policy", policy]) else {
            return;
        };
        let reason = refusal(server.config()).await;
        let mend = "CONFIG SET maxmemory-policy noeviction";
        assert!(reason.contains(policy) && reason.contains(mend), "{reason}");
    }
}

/// Writes `NAME.pem` and `NAME.key`.
fn write(folder: &Path, name: &str, certificate: &str, key: &KeyPair) -> (PathBuf, PathBuf) {
    let paths = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    std::fs::write(&paths.0, certificate).unwrap();
    std::fs::write(&paths.1, key.serialize_pem()).unwrap();
    paths
}

/// An authority, and certificates of it for a server on loopback and for a client.
fn certify(folder: &Path) {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    write(folder, "authority", &authority.pem(), authority.key());
    for (name, host) in [("server", "127.0.0.1"), ("client", "client")] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &authority).unwrap();
        write(folder, name, &certificate.pem(), &key);
    }
}

#[tokio::test]
async fn a_connection_is_encrypted_and_both_ends_are_certified() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path());
    let file = |name: &str| folder.path().join(name);
    let text = |name: &str| file(name).to_str().unwrap().to_owned();
    let port = free_port();
    let arguments = [
        ["--tls-port", &port.to_string()],
        ["--tls-cert-file", &text("server.pem")],
        ["--tls-key-file", &text("server.key")],
        ["--tls-ca-cert-file", &text("authority.pem")],
        ["--tls-auth-clients", "yes"],
    ];
    let Some(_server) = Server::start_with(arguments.as_flattened()) else {
        return;
    };
    let mut config = RedisConfig::new(format!("rediss://127.0.0.1:{port}"), "test");
    config.certificates.authority = Some(file("authority.pem"));
    config.certificates.client = Some((file("client.pem"), file("client.key")));
    works(config.clone()).await;

    let mut strange = config.clone();
    strange.certificates.authority = None;
    let untrusted = RedisQueue::open(strange).await.err();
    assert!(
        matches!(&untrusted, Some(QueueError::Unavailable { cause }) if cause.contains("certificate")),
        "{untrusted:?}"
    );
    let mut unknown = config.clone();
    unknown.certificates.client = None;
    assert!(RedisQueue::open(unknown).await.is_err(), "the server asks who calls");
    let mut plain = config.clone();
    plain.url = plain.url.replace("rediss", "redis");
    assert!(RedisQueue::open(plain).await.is_err(), "the server speaks TLS only");
    config.certificates.authority = Some(file("none.pem"));
    assert!(refusal(config).await.contains("none.pem"));
}
