//! Starts children from a thread that never ends.
//!
//! Linux sends the parent-death signal when the *thread* that forked ends. A runtime may end its
//! threads when they are idle, so one thread that lives as long as the process starts all children.

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    thread,
};

use tokio::{process::Child, runtime::Handle, sync::oneshot};

use crate::ffi;

/// A child to start, and who waits for it.
struct Request {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

static SPAWNER: Mutex<Option<mpsc::Sender<Request>>> = Mutex::new(None);

/// Starts `command` so that it dies with this process, leads its own group, and has its standard
/// error piped to us. It is killed when the handle is dropped.
pub(super) async fn spawn(mut command: Command) -> io::Result<Child> {
    command.stdin(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    ffi::die_with_parent(&mut command);
    let (reply, started) = oneshot::channel();
    let gone = || io::Error::other("the thread that starts children is gone");
    spawner()?
        .send(Request {
            command,
            runtime: Handle::current(),
            reply,
        })
        .map_err(|_| gone())?;
    started.await.map_err(|_| gone())?
}

/// Returns the way to the spawning thread, which the first call starts.
fn spawner() -> io::Result<mpsc::Sender<Request>> {
    let mut spawner = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(spawner) = &*spawner {
        return Ok(spawner.clone());
    }
    let (requests, received) = mpsc::channel();
    thread::Builder::new()
        .name("spawner".to_owned())
        .spawn(move || serve(&received))?;
    *spawner = Some(requests.clone());
    Ok(requests)
}

fn serve(requests: &mpsc::Receiver<Request>) {
    for Request {
        command,
        runtime,
        reply,
    } in requests
    {
        let _context = runtime.enter();
        let started = tokio::process::Command::from(command).kill_on_drop(true).spawn();
        // Whoever asked may be gone; dropping the child kills it.
        let _ = reply.send(started);
    }
}
