//! Images a second that the Open Inference client puts through, against a server that does nothing.
//!
//! `cargo run --release -p stillhouse-teacher --example client_rate [SECONDS]`
//!
//! Server and client are processes of their own (each pinned to a core of its own where `taskset`
//! is there and the machine has two). The server reads every request, checks it, and answers with
//! ten constant probabilities an image; it keeps no bill. A line a setting: images of 1x28x28 a
//! second of wall time, the client's own processor time, and images a second of that, which is
//! what one core sends when the server is not in its way.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use stillhouse_core::ImageShape;
use stillhouse_core::job::{Encoding, Protocol, Response, TeacherSpec};
use stillhouse_teacher::{Attempt, Books, Datatype, Host, ModelServer, Predict, Teacher};
use tokio_util::sync::CancellationToken;
use wait4::Wait4;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 28,
    width: 28,
};
const CLASSES: usize = 10;

/// Protocol, encoding, images a request, requests in flight.
const SETTINGS: [(&str, &str, usize, usize); 7] = [
    ("http", "json", 64, 4),
    ("http", "binary", 1, 4),
    ("http", "binary", 16, 4),
    ("http", "binary", 64, 4),
    ("http", "binary", 256, 4),
    ("grpc", "raw", 1, 4),
    ("grpc", "raw", 64, 4),
];

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve"] => run(1, serve()),
        ["ask", http, grpc, protocol, encoding, batch, concurrency, seconds] => {
            let url = if protocol == "grpc" { grpc } else { http };
            let spec = spec(protocol, encoding, url, batch.parse()?);
            run(1, ask(spec, concurrency.parse()?, seconds.parse()?))
        }
        [] => measure("3"),
        [seconds] => measure(seconds),
        _ => Err("usage: client_rate [SECONDS]".into()),
    }
}

fn run(threads: usize, work: impl Future<Output = Outcome<()>>) -> Outcome<()> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all().build()?.block_on(work)
}

/// This program again, on `core` where that can be had.
fn again(core: usize) -> Outcome<Command> {
    let program = std::env::current_exe()?;
    let cores = std::thread::available_parallelism()?.get();
    let taskset = Command::new("taskset").arg("--version").stdout(Stdio::null()).status();
    if cores < 2 || !taskset.is_ok_and(|status| status.success()) {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &core.to_string()]).arg(program);
    Ok(command)
}

/// A server that ends with this process.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(seconds: &str) -> Outcome<()> {
    let mut server = Server(again(0)?.arg("serve").stdout(Stdio::piped()).spawn()?);
    let mut lines = BufReader::new(server.0.stdout.take().ok_or("no output of the server")?).lines();
    let mut line = || -> Outcome<String> { Ok(lines.next().ok_or("the server ended")??) };
    let (http, grpc) = (line()?, line()?);
    println!("| protocol | tensors | images a request | in flight | images/s | client CPU s | images a CPU second |");
    println!("|---|---|---|---|---|---|---|");
    for (protocol, encoding, batch, concurrency) in SETTINGS {
        let mut client = again(1)?;
        client.args(["ask", &http, &grpc, protocol, encoding]);
        client.args([&batch.to_string(), &concurrency.to_string(), seconds]);
        let mut client = client.stdout(Stdio::piped()).spawn()?;
        let output = client.stdout.take().ok_or("no output of the client")?;
        let said = BufReader::new(output).lines().next().ok_or("the client ended")??;
        let used = client.wait4()?;
        let cpu = (used.rusage.utime + used.rusage.stime).as_secs_f64();
        let (images, wall) = said.split_once(' ').ok_or("no figures of the client")?;
        let (images, wall): (f64, f64) = (images.parse()?, wall.parse()?);
        println!(
            "| {protocol} | {encoding} | {batch} | {concurrency} | {:.0} | {cpu:.2} | {:.0} |",
            images / wall,
            images / cpu
        );
    }
    Ok(())
}

/// Prints its addresses, HTTP and gRPC, and serves until it is killed.
async fn serve() -> Outcome<()> {
    let config = ModelServer {
        name: "nothing".into(),
        version: "1".into(),
        shape: SHAPE,
        classes: CLASSES,
        datatype: Datatype::Uint8,
        max_batch: 4_096,
        response: Response::Probabilities,
        threads: 1,
    };
    let predict: Predict = Arc::new(|_, n| Ok(vec![1.0 / CLASSES as f32; n * CLASSES]));
    let host = Host::start(config, predict, Books::default())?;
    let http = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let grpc = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}\nhttp://{}", http.local_addr()?, grpc.local_addr()?);
    let never = CancellationToken::new();
    tokio::try_join!(
        stillhouse_teacher::server::serve_router(http, host.router(), never.clone()),
        stillhouse_teacher::server::serve_router(grpc, host.grpc_router(), never),
    )?;
    Ok(())
}

fn spec(protocol: &str, encoding: &str, url: &str, batch: u32) -> TeacherSpec {
    let protocol = match protocol {
        "grpc" => Protocol::OpenInferenceGrpc,
        _ => Protocol::OpenInference,
    };
    TeacherSpec {
        encoding: match encoding {
            "json" => Encoding::Json,
            _ => Encoding::Auto,
        },
        batch: Some(batch),
        ..TeacherSpec::new(protocol, url, "nothing")
    }
}

/// Asks for `seconds`; prints how many images were labelled, and in how many seconds.
async fn ask(spec: TeacherSpec, concurrency: usize, seconds: f64) -> Outcome<()> {
    let n = spec.batch_size() as usize;
    let (teacher, _) = stillhouse_teacher::connect(&spec, SHAPE, None).await?;
    let images: Arc<[u8]> = (0..n * SHAPE.len()).map(|at| (at * 31 % 251) as u8).collect();
    let (begun, labelled) = (Instant::now(), Arc::<AtomicU64>::default());
    let asking = (0..concurrency).map(|who| {
        let (teacher, images, labelled): (Arc<dyn Teacher>, _, _) = (teacher.clone(), images.clone(), labelled.clone());
        tokio::spawn(async move {
            for count in 0.. {
                if begun.elapsed() >= Duration::from_secs_f64(seconds) {
                    break;
                }
                let attempt = Attempt::new(format!("{who}-{count}"));
                let labels = teacher.infer(&images, n, &attempt).await?;
                let sound = labels.iter().filter(|label| label.is_ok()).count();
                labelled.fetch_add(sound as u64, Ordering::Relaxed);
            }
            Outcome::Ok(())
        })
    });
    for asked in asking.collect::<Vec<_>>() {
        asked.await??;
    }
    println!("{} {}", labelled.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
    Ok(())
}
