//! Commands that speak to a cluster: the same jobs, as `DistillJob`s.
//!
//! | module | what it is |
//! |---|---|
//! | [`submit`] | sends a job file |
//! | [`look`] | `list`, `status`, `watch` |
//! | [`describe`] | why a job is as it is |
//! | [`queue`] | what Kueue says of a job that it has not let in |
//! | [`change`] | `suspend`, `resume`, `resize`, `budget add`, `cancel` |
//! | [`logs`] | what a job's programs wrote |
//! | [`export`] | the results of a job that is over |

pub mod change;
pub mod describe;
pub mod export;
pub mod logs;
pub mod look;
pub mod queue;
pub mod submit;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use stillhouse_operator::crd::DistillJob;

use crate::cli::cluster::ClusterArgs;
use crate::commands::runtime;
use crate::failure::{Failure, Kind};

/// A cluster, and the namespace that is meant.
#[derive(Clone)]
pub struct Cluster {
    /// For requests.
    pub client: Client,
    /// The namespace.
    pub namespace: String,
}

impl Cluster {
    /// The jobs of the namespace.
    #[must_use]
    pub fn jobs(&self) -> Api<DistillJob> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn connect(args: &ClusterArgs) -> Result<Self, Failure> {
        // One of two providers in this process has to be named.
        let _is_first = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let config = config(args).await.map_err(|error| {
            Failure::new(Kind::Usage, error)
                .context("no cluster is configured")
                .hint("--kubeconfig FILE, the variable KUBECONFIG or ~/.kube/config names one; --context chooses in it")
        })?;
        let namespace = args
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config)
            .map_err(|error| Failure::new(Kind::Usage, error).context("the kubeconfig cannot be used"))?;
        Ok(Self { client, namespace })
    }
}

async fn config(args: &ClusterArgs) -> anyhow::Result<Config> {
    let options = KubeConfigOptions {
        context: args.context.clone(),
        ..KubeConfigOptions::default()
    };
    Ok(match &args.kubeconfig {
        Some(file) => Config::from_custom_kubeconfig(Kubeconfig::read_from(file)?, &options).await?,
        None if args.context.is_some() => Config::from_kubeconfig(&options).await?,
        None => Config::infer().await?,
    })
}

/// Does `work` with the cluster that `args` name.
fn with<T, F>(args: &ClusterArgs, work: impl FnOnce(Cluster) -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    runtime()?.block_on(async { work(Cluster::connect(args).await?).await })
}

/// What the server said no to, as a user reads it.
fn refused(error: kube::Error, what: &str) -> Failure {
    match error {
        kube::Error::Api(status) => {
            let hint = match status.code {
                401 | 403 => {
                    Some("the account of the kubeconfig lacks the right; a cluster's administrator can give it")
                }
                404 if status
                    .message
                    .contains("the server could not find the requested resource") =>
                {
                    Some("the definition of DistillJob is not installed: docs/install.md")
                }
                404 => Some("stillhouse list shows the jobs that are there; -n names another namespace"),
                409 => Some("somebody else owns that field: kubectl get djob NAME -o yaml --show-managed-fields"),
                _ => None,
            };
            let kind = if status.code >= 500 {
                Kind::Internal
            } else {
                Kind::Usage
            };
            Failure::message(kind, format!("{what}: {}", status.message)).maybe_hint(hint.map(str::to_owned))
        }
        other => Failure::new(Kind::Internal, other)
            .context(what.to_owned())
            .hint("is the cluster's API server reachable?"),
    }
}
