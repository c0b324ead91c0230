//! The deterministic test teacher as a program: says `listening on ADDRESS` and serves until it
//! is killed. `die-after` aborts the process, as a crash would.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use clap::Parser;
use stillhouse_core::ImageShape;
use stillhouse_tests::teacher::{Fault, Options, bind, serve};
use tokio_util::sync::CancellationToken;

/// A deterministic teacher behind the Open Inference Protocol, model `test-teacher`.
#[derive(Parser)]
struct Args {
    /// Where to listen; port 0 for any.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Channels, height and width of an image, for example 1x28x28.
    #[arg(long, value_parser = parse_shape)]
    shape: ImageShape,
    /// Number of classes.
    #[arg(long, default_value_t = 10)]
    classes: usize,
    /// Where to write one line a billed image.
    #[arg(long)]
    bill: Option<PathBuf>,
    /// none, down, wrong-shape, nan, unnormalised, too-many:TIMES[:SECONDS], rejects,
    /// fails-first:TIMES, server-error:TIMES, hang or die-after:IMAGES.
    #[arg(long, default_value = "none")]
    fault: Fault,
}

fn parse_shape(text: &str) -> anyhow::Result<ImageShape> {
    let sides: Vec<u32> = text.split('x').map(str::parse).collect::<Result<_, _>>()?;
    let [channels, height, width] = sides[..] else {
        anyhow::bail!("expected CHANNELSxHEIGHTxWIDTH, found {text}");
    };
    let shape = ImageShape {
        channels,
        height,
        width,
    };
    anyhow::ensure!(
        sides.iter().all(|side| (1..=4096).contains(side)),
        "expected sides of 1 to 4096, found {text}"
    );
    Ok(shape)
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let options = Options {
        listen: args.listen,
        shape: args.shape,
        classes: args.classes,
        bill: args.bill,
        fault: args.fault,
    };
    let listener = bind(options.listen).with_context(|| format!("listen on {}", options.listen))?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "listening on {}", listener.local_addr()?)?;
    stdout.flush()?;
    if options.fault == Fault::Down {
        drop(listener);
        loop {
            std::thread::park();
        }
    }
    let fault = Arc::new(Mutex::new(options.fault));
    serve(listener, &options, fault, CancellationToken::new())?;
    // Only `die-after` ends the service: leave as a crash does.
    std::process::abort();
}
