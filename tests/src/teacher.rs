//! A deterministic teacher without libtorch, with a bill and faults that can be switched on.
//!
//! It is a real server of the Open Inference Protocol: in this process ([`TestTeacher`]), on a
//! thread with a runtime of its own, or as the program `test-teacher`, which a test can kill.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use stillhouse_core::ImageShape;
use stillhouse_core::job::Response;
use stillhouse_teacher::{BillFile, Datatype, ModelServer};
use tokio_util::sync::CancellationToken;

mod control;
mod fault;
mod network;

pub use control::set_fault;
pub use fault::Fault;
pub use network::predict;

/// Name of the model that it serves.
pub const MODEL: &str = "test-teacher";

/// What a test teacher serves, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address; port 0 for any.
    pub listen: SocketAddr,
    /// Shape of its images.
    pub shape: ImageShape,
    /// Number of classes.
    pub classes: usize,
    /// Where its bill is kept.
    pub bill: Option<PathBuf>,
    /// What is wrong with it from the start.
    pub fault: Fault,
}

/// Binds `listen` in a way that leaves the port free for the next life.
///
/// # Errors
/// When the address is taken.
pub fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until `death`, and then drops every connection on the spot. `death` is cancelled by
/// [`Fault::DieAfter`] too.
///
/// # Errors
/// When the runtime, the bill or the listener fails.
pub fn serve(
    listener: TcpListener,
    options: &Options,
    fault: Arc<Mutex<Fault>>,
    death: CancellationToken,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let server = ModelServer {
        name: MODEL.into(),
        version: "1".into(),
        shape: options.shape,
        classes: options.classes,
        datatype: Datatype::Uint8,
        max_batch: 4096,
        response: Response::Probabilities,
        threads: 1,
    };
    let bill = options.bill.as_deref().map(BillFile::open).transpose()?;
    let router = stillhouse_teacher::server::router(server, predict(options.shape, options.classes), bill)?;
    let router = fault::with_faults(router, fault.clone(), death.clone());
    let router = control::with_control(router, fault);
    let served = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::select! {
            served = stillhouse_teacher::server::serve_router(listener, router, CancellationToken::new()) => served,
            () = death.cancelled() => Ok(()),
        }
    });
    runtime.shutdown_background();
    served
}

/// A teacher in this process. Stops when dropped.
pub struct TestTeacher {
    options: Options,
    address: SocketAddr,
    fault: Arc<Mutex<Fault>>,
    life: Mutex<Option<Life>>,
}

struct Life {
    death: CancellationToken,
    thread: JoinHandle<io::Result<()>>,
}

impl Life {
    fn end(self) {
        self.death.cancel();
        let served = self.thread.join().expect("the teacher's thread does not panic");
        served.expect("the teacher serves until it is stopped");
    }
}

impl TestTeacher {
    /// Starts on any free port of this machine.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(shape: ImageShape, classes: usize, bill: Option<&Path>) -> io::Result<Self> {
        let options = Options {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            shape,
            classes,
            bill: bill.map(Path::to_owned),
            fault: Fault::None,
        };
        let listener = bind(options.listen)?;
        let teacher = Self {
            address: listener.local_addr()?,
            fault: Arc::new(Mutex::new(options.fault)),
            options,
            life: Mutex::new(None),
        };
        teacher.begin(listener);
        Ok(teacher)
    }

    /// Its base address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Switches to another fault, at once; a dead teacher comes back on the same port, unless the
    /// fault is [`Fault::Down`].
    ///
    /// # Errors
    /// When somebody else has taken the port meanwhile.
    pub fn set_fault(&self, fault: Fault) -> io::Result<()> {
        *locked(&self.fault) = fault;
        let living = locked(&self.life)
            .as_ref()
            .is_some_and(|life| !life.death.is_cancelled());
        if fault == Fault::Down || !living {
            self.stop();
        }
        if fault != Fault::Down && !living {
            self.begin(bind(self.address)?);
        }
        Ok(())
    }

    /// The lines of its bill.
    ///
    /// # Errors
    /// When the bill cannot be read.
    pub fn billed(&self) -> io::Result<Vec<String>> {
        self.options.bill.as_deref().map_or(Ok(vec![]), BillFile::read)
    }

    fn begin(&self, listener: TcpListener) {
        let death = CancellationToken::new();
        let (options, fault, token) = (self.options.clone(), self.fault.clone(), death.clone());
        let thread = std::thread::spawn(move || serve(listener, &options, fault, token));
        *locked(&self.life) = Some(Life { death, thread });
    }

    fn stop(&self) {
        let life = locked(&self.life).take();
        if let Some(life) = life {
            life.end();
        }
    }
}

impl Drop for TestTeacher {
    fn drop(&mut self) {
        self.stop();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
