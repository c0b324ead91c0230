//! etcd, API server, controller manager and scheduler, as processes of this machine.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};

use super::network::Network;
use crate::jobs::root;
use crate::mortal::Mortal;
use crate::ports::free_address;
use crate::processes::{on_path, wait_for};

/// The administrator's token: whoever is on the bridge could use it, and only this test is.
const TOKEN: &str = "administrator-of-a-test";

/// What accounts of pods ask the server, without contents.
const AUDIT: &str = r#"{ "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": [
    { "level": "None", "userGroups": ["system:masters"] },
    { "level": "Metadata", "userGroups": ["system:serviceaccounts"] },
    { "level": "None" } ] }"#;

/// Where the programs of a control plane are, and etcd.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    etcd: PathBuf,
}

impl Programs {
    /// In the folder that `KUBEBUILDER_ASSETS` names, or where `scripts/control-plane.sh` leaves them.
    #[must_use]
    pub fn find() -> Option<Self> {
        let folder =
            std::env::var_os("KUBEBUILDER_ASSETS").map_or_else(|| root().join(".tools/kubernetes"), PathBuf::from);
        let etcd = Some(folder.join("etcd")).filter(|program| program.is_file());
        let etcd = etcd.or_else(|| on_path("etcd"))?;
        let parts = ["kube-apiserver", "kube-controller-manager", "kube-scheduler"];
        let whole = parts.into_iter().all(|part| folder.join(part).is_file());
        whole.then_some(Self { folder, etcd })
    }
}

/// A control plane. Dropping it ends it.
#[derive(Debug)]
pub struct ControlPlane {
    home: PathBuf,
    server: SocketAddr,
    /// In the order in which they are ended.
    parts: Vec<Mortal>,
    apiserver: Mortal,
    etcd: Mortal,
    /// Where etcd is asked.
    etcd_at: SocketAddr,
}

impl ControlPlane {
    /// Starts it with everything that it keeps under `home`, reachable from pods of the network.
    ///
    /// # Errors
    /// When keys or files cannot be made.
    pub fn start(programs: &Programs, home: &Path) -> anyhow::Result<Self> {
        Self::start_with(
            programs,
            home,
            &["--node-monitor-period=1s", "--node-monitor-grace-period=8s"],
        )
    }

    /// [`Self::start`] with other settings of the controller manager.
    ///
    /// # Errors
    /// When keys or files cannot be made.
    pub fn start_with(programs: &Programs, home: &Path, controllers: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(home)?;
        let server = SocketAddr::from((Network::host(), free_address().port()));
        let key = home.join("accounts.key");
        let made = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048")
            .output();
        anyhow::ensure!(made.context("openssl")?.status.success(), "openssl makes no key");
        std::fs::write(home.join("audit.yaml"), AUDIT)?;
        std::fs::write(
            home.join("tokens.csv"),
            format!("{TOKEN},administrator,0,system:masters\n"),
        )?;
        let (client, peer) = (free_address(), free_address());
        let mut plane = Self {
            etcd_at: client,
            home: home.to_owned(),
            server,
            parts: Vec::new(),
            apiserver: Mortal::new(Command::new("false"), &home.join("none")),
            etcd: Mortal::new(Command::new("false"), &home.join("none")),
        };
        plane.etcd = Mortal::new(etcd(&programs.etcd, home, client, peer), &home.join("etcd.log"));
        plane.etcd.start();
        plane.apiserver = Mortal::new(plane.server_command(programs, client), &home.join("apiserver.log"));
        plane.apiserver.start();
        wait_for("the API server's certificate", || {
            home.join("certs/apiserver.crt").is_file().then_some(())
        });
        plane.write_kubeconfig("admin", TOKEN)?;
        for part in ["kube-controller-manager", "kube-scheduler"] {
            let mut command = plane.part_command(programs, part);
            if part == "kube-controller-manager" {
                command.args(controllers);
            }
            let mut mortal = Mortal::new(command, &home.join(format!("{part}.log")));
            mortal.start();
            plane.parts.push(mortal);
        }
        Ok(plane)
    }

    fn server_command(&self, programs: &Programs, etcd: SocketAddr) -> Command {
        let mut command = Command::new(programs.folder.join("kube-apiserver"));
        let key = self.home.join("accounts.key");
        command
            .arg(format!("--etcd-servers=http://{etcd}"))
            .arg(format!("--bind-address={}", self.server.ip()))
            .arg(format!("--advertise-address={}", self.server.ip()))
            .arg(format!("--secure-port={}", self.server.port()))
            .args([
                "--authorization-mode=RBAC",
                "--allow-privileged=true",
                "--service-cluster-ip-range=10.96.0.0/16",
            ])
            // No Service has an address here: a webhook's pods are reached at theirs.
            .arg("--enable-aggregator-routing=true")
            .args([
                "--default-not-ready-toleration-seconds=3",
                "--default-unreachable-toleration-seconds=3",
            ])
            .args([
                "--service-account-issuer=https://kubernetes.default.svc",
                "--request-timeout=30s",
            ])
            .args(with("--cert-dir=", &self.home.join("certs")))
            .args(with("--audit-policy-file=", &self.home.join("audit.yaml")))
            .args(with("--audit-log-path=", &self.audit_log()))
            .args(with("--token-auth-file=", &self.home.join("tokens.csv")))
            .args(with("--service-account-signing-key-file=", &key))
            .args(with("--service-account-key-file=", &key));
        command
    }

    fn part_command(&self, programs: &Programs, part: &str) -> Command {
        let mut command = Command::new(programs.folder.join(part));
        let port = free_address().port();
        command
            .args(with("--kubeconfig=", &self.kubeconfig("admin")))
            .args(["--leader-elect=false", "--bind-address=127.0.0.1"])
            .arg(format!("--secure-port={port}"))
            .args(with("--cert-dir=", &self.home.join(part)));
        if part == "kube-controller-manager" {
            command.args(with("--root-ca-file=", &self.certificate())).args(with(
                "--service-account-private-key-file=",
                &self.home.join("accounts.key"),
            ));
        }
        command
    }

    /// What accounts of pods asked the server, an event a line.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.home.join("audit.log")
    }

    /// The certificate by which the server is known.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.home.join("certs/apiserver.crt")
    }

    /// Where the server listens.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// The file by which `user` reaches the server.
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.home.join(format!("{user}.kubeconfig"))
    }

    /// Writes that file for a user with `token`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_kubeconfig(&self, user: &str, token: &str) -> anyhow::Result<PathBuf> {
        let file = self.kubeconfig(user);
        let server = format!("https://{}", self.server);
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": server, "certificate-authority": self.certificate() } }],
            "users": [{ "name": user, "user": { "token": token } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": user, "namespace": "default" } }],
        });
        std::fs::write(&file, text.to_string())?;
        Ok(file)
    }

    /// The administrator's client, once the server is ready.
    ///
    /// # Errors
    /// When the server's certificate cannot be read.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let config = Kubeconfig::read_from(self.kubeconfig("admin"))?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let client = Client::try_from(config)?;
        let begun = std::time::Instant::now();
        let request = || http_request("/readyz");
        while client.request_text(request()).await.is_err() {
            anyhow::ensure!(
                begun.elapsed().as_secs() < 90,
                "the API server is not ready: {}",
                self.log()
            );
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        Ok(client)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.home.join("apiserver.log")).unwrap_or_default()
    }

    /// Kills the API server, compacts everything up to now, and starts it again: no watch goes on from where it was.
    ///
    /// # Errors
    /// When etcd does not answer as it should.
    pub fn restart_server_without_the_past(&mut self) -> anyhow::Result<()> {
        self.apiserver.kill();
        let found = self.ask_etcd("range", &json!({ "key": "AA==" }))?;
        let revision = &found["header"]["revision"];
        anyhow::ensure!(revision.is_string(), "etcd says {found}");
        self.ask_etcd("compaction", &json!({ "revision": revision, "physical": true }))?;
        self.apiserver.start();
        Ok(())
    }

    fn ask_etcd(&self, what: &str, request: &Value) -> anyhow::Result<Value> {
        let answer = post(self.etcd_at, &format!("/v3/kv/{what}"), &request.to_string())?;
        serde_json::from_str(&answer).with_context(|| answer.clone())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.parts.iter_mut().for_each(|part| {
            part.kill();
        });
        self.apiserver.kill();
        self.etcd.kill();
    }
}

/// The body of the answer to a `POST`.
fn post(address: SocketAddr, path: &str, body: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    anyhow::ensure!(head.contains(" 200 "), "{answer}");
    Ok(body.to_owned())
}

fn http_request(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(path).body(Vec::new()).expect("a path")
}

fn with(flag: &str, path: &Path) -> [String; 1] {
    [format!("{flag}{}", path.display())]
}

fn etcd(program: &Path, home: &Path, client: SocketAddr, peer: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command
        .arg("--data-dir")
        .arg(home.join("etcd"))
        .args(["--initial-cluster", &format!("default=http://{peer}")])
        .args(["--listen-client-urls", &format!("http://{client}")])
        .args(["--advertise-client-urls", &format!("http://{client}")])
        .args(["--listen-peer-urls", &format!("http://{peer}")])
        .args(["--initial-advertise-peer-urls", &format!("http://{peer}")]);
    command
}
