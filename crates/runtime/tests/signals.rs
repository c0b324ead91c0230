//! Real signals to this process, alone in its binary.

use rustix::process::{Signal, getpid, kill_process};

#[tokio::test]
async fn the_first_signal_drains_and_the_second_aborts() {
    let shutdown = stillhouse_runtime::signals::install().unwrap();
    assert!(!shutdown.drain.is_cancelled());
    kill_process(getpid(), Signal::TERM).unwrap();
    shutdown.drain.cancelled().await;
    assert!(!shutdown.abort.is_cancelled(), "one signal aborts");
    kill_process(getpid(), Signal::INT).unwrap();
    shutdown.abort.cancelled().await;
}
