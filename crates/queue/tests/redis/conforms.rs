//! The suite that every queue runs, on the servers that are installed.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use stillhouse_queue::conformance::{self, Returned};
use stillhouse_queue::{RedisConfig, RedisQueue};

use crate::server::{Server, installed};

async fn conforms(server: &Server, block: usize) {
    let jobs = AtomicU64::new(0);
    conformance::run(Returned::Later, async |capacity| {
        let mut config: RedisConfig = server.config();
        config.prefix = format!("job-{block}-{}", jobs.fetch_add(1, Ordering::Relaxed));
        config.capacity = capacity;
        config.block = block;
        RedisQueue::open_as_dispatcher(config, 1).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn the_redis_queue_conforms() {
    let Some(server) = Server::start() else { return };
    conforms(&server, 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_redis_queue_conforms_on_several_threads_and_with_a_synchronous_log() {
    let Some(server) = Server::start_with(&["--appendonly", "yes", "--appendfsync", "always"]) else {
        return;
    };
    conforms(&server, 64).await;
}

#[tokio::test]
async fn the_redis_queue_conforms_on_valkey() {
    let Some(program) = installed("valkey-server") else {
        // Debian 12 has no package of it: no failure, wherever it is missing.
        println!("not run: valkey-server is not installed");
        return;
    };
    let server = Server::start_program(Path::new(&program), tempfile::tempdir().unwrap(), &[]);
    conforms(&server, 64).await;
}
