//! `stillhouse-operator`: what a cluster needs, printed; nothing is sent anywhere. There is no controller yet.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use stillhouse_operator::crd::{DistillJob, definition};
use stillhouse_operator::desired::{Images, Observed, plan};
use stillhouse_operator::request::parse;

/// Distillation jobs on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "stillhouse-operator", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the definition of the custom resource.
    Crd,
    /// Check a job file as the operator would, and print the objects that it becomes.
    Render {
        /// The job file; standard input when `-`.
        job: PathBuf,
        /// Namespace of the objects.
        #[arg(long, default_value = "default")]
        namespace: String,
        /// Unique id of the DistillJob that owns them.
        #[arg(long, default_value = "00000000-0000-0000-0000-000000000000")]
        uid: String,
        /// Image of coordinator and gateways.
        #[arg(long, default_value = "stillhouse/stillhouse:0.1.0")]
        image: String,
        /// Image of workers.
        #[arg(long, default_value = "stillhouse/stillhouse-worker:0.1.0")]
        worker_image: String,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crd => print(&definition()),
        Command::Render {
            job,
            namespace,
            uid,
            image,
            worker_image,
        } => {
            let mut object: Value = serde_saphyr::from_str(&read(&job)?).context("the job file is no YAML")?;
            anyhow::ensure!(
                object["metadata"].is_object(),
                "expected metadata with a name, found none"
            );
            object["metadata"]["namespace"] = json!(namespace);
            object["metadata"]["uid"] = json!(uid);
            let object: DistillJob = serde_json::from_value(object)?;
            let images = Images {
                control: image,
                worker: worker_image,
            };
            let items = plan(&parse(&object)?, &Observed::default(), &images).apply;
            print(&json!({ "apiVersion": "v1", "kind": "List", "items": items }))
        }
    }
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn print(value: &Value) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}
