//! `stillhouse-operator run`: one of several replicas acts, the others wait for its Lease.

use anyhow::Context as _;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use kube_lease_manager::LeaseManagerBuilder;
use stillhouse_metrics::operator as metrics;
use stillhouse_operator::apply::MANAGER;
use stillhouse_operator::controller::{self, Scope};
use stillhouse_runtime::signals;
use tokio_util::sync::CancellationToken;

use crate::RunArgs;

/// Name of the Lease.
const LEASE: &str = "stillhouse-operator";
/// How long a leader that is silent stays leader, in seconds.
const LEASE_SECONDS: u64 = 15;
/// How long before that it renews, in seconds.
const RENEW_SECONDS: u64 = 5;

/// Looks after jobs whenever this replica is the leader. A leader that loses the Lease ends.
pub(crate) async fn run(args: RunArgs) -> anyhow::Result<()> {
    // One of two providers in this process has to be named.
    let _is_first = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let shutdown = signals::install().context("cannot listen for signals")?.drain;
    let client = Client::try_default().await.context("no cluster is configured")?;
    if let Some(address) = args.metrics_listen {
        stillhouse_metrics::serve::serve(address, "operator", || async {}, shutdown.clone()).await?;
    }
    metrics().leader.set(0.0);
    let identity = args.identity.unwrap_or_else(host);
    let namespace = args
        .lease_namespace
        .unwrap_or_else(|| client.default_namespace().to_owned());
    let lease = LeaseManagerBuilder::new(client.clone(), LEASE)
        .with_namespace(namespace)
        .with_identity(identity.clone())
        .with_duration(LEASE_SECONDS)
        .with_grace(RENEW_SECONDS)
        .with_field_manager(format!("{LEASE}-{identity}"))
        .build()
        .await
        .context("cannot use the Lease")?;
    let (mut leads, task) = lease.watch().await;
    tracing::info!(identity, "waiting for the Lease");
    tokio::select! {
        led = leads.wait_for(|leads| *leads) => led.map(drop).context("the Lease is not watched any more")?,
        () = shutdown.cancelled() => return Ok(()),
    }
    tracing::info!(identity, "leading");
    metrics().leader.set(1.0);
    let recorder = Recorder::new(
        client.clone(),
        Reporter {
            controller: MANAGER.to_owned(),
            instance: Some(identity),
        },
    );
    let scope = args.namespace.filter(|namespace| !namespace.is_empty());
    let scope = scope.map_or(Scope::Cluster, Scope::Namespace);
    let stop = CancellationToken::new();
    let controlled = controller::run(
        client,
        &scope,
        args.images.into(),
        recorder,
        stop.clone().cancelled_owned(),
    );
    let (outcome, is_lost) = {
        tokio::pin!(controlled);
        let is_lost = tokio::select! {
            outcome = &mut controlled => return outcome.map_err(Into::into),
            _ = leads.wait_for(|leads| !leads) => true,
            () = shutdown.cancelled() => false,
        };
        stop.cancel();
        if is_lost {
            // Another may act already: what is under way is dropped here.
            anyhow::bail!("lost the Lease");
        }
        (controlled.await, is_lost)
    };
    tracing::info!(is_lost, "stopped");
    // Let go at once, so that nobody waits for it to run out.
    drop(leads);
    let _released = task.await;
    outcome.map_err(Into::into)
}

fn host() -> String {
    std::env::var("HOSTNAME")
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| std::process::id().to_string())
}
