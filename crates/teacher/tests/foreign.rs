//! The client against Open Inference servers that nobody here wrote: MLServer and the KServe Python
//! server, over HTTP and gRPC, each with the same TorchScript module. `make foreign-teachers`
//! installs them and runs this.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stillhouse_core::ImageShape;
use stillhouse_core::job::{Encoding, Protocol, Response, TeacherSpec};
use stillhouse_teacher::{Attempt, Billing, ConnectError, Teacher, TeacherInfo, connect};

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 8,
    width: 8,
};
const CLASSES: usize = 10;
const IMAGES: usize = 5;

/// Longest time for a server to import PyTorch and listen.
const PATIENCE: Duration = Duration::from_secs(180);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// Why nothing can be tested here, where that is so.
fn lacking() -> Option<&'static str> {
    let home = root();
    let server = |name: &str| home.join(".foreign-teachers").join(name).join(".complete").is_file();
    if !server("mlserver") || !server("kserve") {
        return Some("MLServer and KServe are not installed (make foreign-teachers installs them)");
    }
    let torch = home.join(".libtorch/site/torch").is_dir() && home.join(".libtorch/python/.complete").is_file();
    (!torch).then_some("torch for Python is not installed (make python-torch installs it)")
}

/// Prints why, and fails where everything is expected to be here.
fn skipped(reason: &str) {
    println!("skipped: {reason}");
    let expected = std::env::var_os("STILLHOUSE_EXPECT_FOREIGN").is_some_and(|value| value == "1");
    assert!(!expected, "a test was skipped: {reason}");
}

/// A server, until it is dropped.
struct Server {
    process: Child,
    http: u16,
    grpc: u16,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// Lets `command` import torch and find the module that is served.
fn with_module(command: &mut Command) {
    let torch = root().join(".libtorch");
    let needs = torch.join("python");
    let libraries = std::fs::read_dir(needs.join("nvidia")).unwrap();
    let libraries = libraries.map(|package| package.unwrap().path().join("lib"));
    command
        .env("TEACHER_MODULE", root().join("crates/student/tests/data/small.pt"))
        .env(
            "TEACHER_TORCH",
            std::env::join_paths([torch.join("site"), needs.clone()]).unwrap(),
        )
        .env("LD_LIBRARY_PATH", std::env::join_paths(libraries).unwrap());
}

impl Server {
    fn start(name: &str) -> Self {
        let bin = root().join(".foreign-teachers").join(name).join("bin");
        let scripts = root().join("tests/python/teachers");
        let [http, grpc] = free_ports();
        let mut command = match name {
            "mlserver" => {
                let mut command = Command::new(bin.join("mlserver"));
                command.arg("start").arg(scripts.join("mlserver"));
                command.env("MLSERVER_HTTP_PORT", http.to_string());
                command.env("MLSERVER_GRPC_PORT", grpc.to_string());
                command
            }
            _ => {
                let mut command = Command::new(bin.join("python"));
                command.arg(scripts.join("kserve_server.py"));
                command.args([http.to_string(), grpc.to_string()]);
                command
            }
        };
        with_module(&mut command);
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let output = File::create(&log).unwrap();
        command.current_dir(folder.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdout(output.try_clone().unwrap()).stderr(output);
        Self {
            process: command.spawn().unwrap(),
            http,
            grpc,
            log,
            _folder: folder,
        }
    }

    fn spec(&self, protocol: Protocol) -> TeacherSpec {
        let port = match protocol {
            Protocol::OpenInferenceGrpc => self.grpc,
            _ => self.http,
        };
        TeacherSpec {
            response: Response::Logits,
            ..TeacherSpec::new(protocol, format!("http://127.0.0.1:{port}"), "small")
        }
    }

    /// Connects as soon as the server is up.
    async fn connect(&mut self, spec: &TeacherSpec) -> (Arc<dyn Teacher>, TeacherInfo) {
        let begun = Instant::now();
        loop {
            let error = match connect(spec, SHAPE, None).await {
                Ok(connected) => return connected,
                Err(error) => error,
            };
            let log = || std::fs::read_to_string(&self.log).unwrap_or_default();
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", log());
            let patient = begun.elapsed() < PATIENCE && !error.is_fatal();
            assert!(patient, "{error}: {}", log());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

fn images() -> Vec<u8> {
    (0..IMAGES * SHAPE.len()).map(|at| (at * 53 % 251) as u8).collect()
}

async fn labels(teacher: &dyn Teacher) -> Vec<Vec<f32>> {
    let answer = teacher.infer(&images(), IMAGES, &Attempt::new("all")).await.unwrap();
    let labels = answer.into_iter().map(|label| label.unwrap().probabilities().to_vec());
    labels.collect()
}

fn assert_close(one: &[Vec<f32>], other: &[Vec<f32>], what: &str) {
    assert_eq!(one.len(), other.len(), "{what}");
    for (a, b) in one.iter().flatten().zip(other.iter().flatten()) {
        assert!((a - b).abs() < 1e-6, "{what}: {a} and {b}");
    }
}

/// Every way to the same module must give the same labels; what a server cannot do is refused
/// before anything is asked.
async fn check(name: &str) -> Vec<Vec<f32>> {
    let mut server = Server::start(name);
    let spec = server.spec(Protocol::OpenInference);
    let (http, info) = server.connect(&spec).await;
    assert_eq!(info.classes, Some(CLASSES), "{name}");
    let json = labels(&*http).await;
    assert_eq!(json.len(), IMAGES);
    assert_ne!(json[0], json[1], "{name}: different images have different labels");

    let grpc = server.spec(Protocol::OpenInferenceGrpc);
    let (teacher, grpc_info) = server.connect(&grpc).await;
    assert_close(&json, &labels(&*teacher).await, &format!("{name} over gRPC"));
    if grpc_info.version == info.version {
        assert_eq!(grpc_info.fingerprint, info.fingerprint, "{name}: one model");
    }
    let one = teacher
        .infer(&images()[..SHAPE.len()], 1, &Attempt::new("one"))
        .await
        .unwrap();
    assert_close(&json[..1], &[one[0].as_ref().unwrap().probabilities().to_vec()], name);

    let binary = TeacherSpec {
        encoding: Encoding::Binary,
        ..spec.clone()
    };
    match connect(&binary, SHAPE, None).await {
        Ok((teacher, _)) => assert_close(&json, &labels(&*teacher).await, &format!("{name} with raw tensors")),
        Err(error) => assert!(error.to_string().contains("binary_tensor_data"), "{name}: {error}"),
    }
    refuse(&spec, name).await;
    refuse(&grpc, name).await;
    drop(server);
    let gone = http.infer(&images(), IMAGES, &Attempt::new("gone")).await.unwrap_err();
    assert!(
        matches!(gone.billing(), Billing::NotSent | Billing::Ambiguous),
        "{name}: {gone}"
    );
    json
}

/// A model that is not there, and images that do not fit.
async fn refuse(spec: &TeacherSpec, name: &str) {
    let absent = TeacherSpec {
        model: "absent".into(),
        ..spec.clone()
    };
    let error = connect(&absent, SHAPE, None).await.err().unwrap();
    assert!(
        matches!(error, ConnectError::Refused { .. } | ConnectError::NotReady { .. }),
        "{name}: {error}"
    );
    let wide = ImageShape { width: 9, ..SHAPE };
    let error = connect(spec, wide, None).await.err().unwrap();
    assert!(
        error.to_string().starts_with("the shape of the model's input"),
        "{name}: {error}"
    );
}

#[tokio::test]
async fn one_module_behind_two_foreign_servers_gives_the_same_labels_however_it_is_asked() {
    if let Some(reason) = lacking() {
        return skipped(reason);
    }
    let mlserver = check("mlserver").await;
    let kserve = check("kserve").await;
    assert_close(&mlserver, &kserve, "MLServer and KServe");
}
