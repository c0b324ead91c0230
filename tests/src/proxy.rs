//! A TCP proxy in front of one address that cuts, stalls and refuses connections.
//!
//! Each connection has two threads, one a direction. What strikes a connection strikes it in the
//! middle of whatever it carries.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

/// Bytes that are passed on at once: small, so that a stall leaves messages half-way.
const PIECE: usize = 2_048;

/// Which way bytes flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From whoever connected.
    ToTarget,
    /// Back.
    ToClient,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Both ends are reset now.
    Now,
    /// Both ends are reset once so many more bytes went through in one direction.
    After {
        /// Which.
        direction: Direction,
        /// How many.
        bytes: u64,
    },
    /// No byte more in one direction, whose receiver sees the end of the stream. The other goes on.
    OneWay(Direction),
}

/// Which connections are struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Every one.
    All,
    /// The one with this number, counted round and round.
    One(u64),
}

/// A proxy on a port that it keeps. Dropping it ends its connections.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    connections: Mutex<Vec<Arc<Connection>>>,
    is_shut: AtomicBool,
    is_stalled: Mutex<bool>,
    resumed: Condvar,
    /// What has passed, where it is kept.
    tape: Mutex<Option<Vec<u8>>>,
}

struct Connection {
    client: TcpStream,
    target: TcpStream,
    /// Bytes that may still pass [to the target, to the client].
    allowed: [AtomicU64; 2],
    is_cut: AtomicBool,
}

impl Proxy {
    /// Listens on `listen` and passes everything on to `target`.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(listen: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        let mut proxy = Self {
            address: listen,
            shared: Arc::new(Shared {
                target,
                connections: Mutex::default(),
                is_shut: AtomicBool::new(true),
                is_stalled: Mutex::new(false),
                resumed: Condvar::new(),
                tape: Mutex::default(),
            }),
            listening: None,
        };
        proxy.open()?;
        Ok(proxy)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes connections again.
    ///
    /// # Errors
    /// When somebody else took the port.
    pub fn open(&mut self) -> io::Result<()> {
        if self.listening.is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address)?;
        self.address = listener.local_addr()?;
        self.shared.is_shut.store(false, Ordering::SeqCst);
        let shared = self.shared.clone();
        self.listening = Some(std::thread::spawn(move || shared.accept(&listener)));
        Ok(())
    }

    /// Refuses connections from now on, as if no program were there. Those that are made live on.
    pub fn shut(&mut self) {
        let Some(listening) = self.listening.take() else { return };
        self.shared.is_shut.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts; if this fails, somebody else just did.
        let _ = TcpStream::connect(self.address);
        listening.join().expect("accepting does not panic");
    }

    /// Strikes connections that are open now; returns how many.
    pub fn cut(&self, which: Which, cut: Cut) -> usize {
        let struck = {
            let connections = self.shared.connections();
            match which {
                Which::All => connections.clone(),
                Which::One(number) if !connections.is_empty() => {
                    let at = number % connections.len() as u64;
                    vec![connections[at as usize].clone()]
                }
                Which::One(_) => vec![],
            }
        };
        struck.iter().for_each(|connection| connection.strike(cut));
        self.shared.resumed.notify_all();
        struck.len()
    }

    /// Keeps every byte that passes from now on.
    pub fn record(&self) {
        *self.shared.tape() = Some(Vec::new());
    }

    /// Whether `words` have passed since [`record`](Self::record).
    #[must_use]
    pub fn heard(&self, words: &[u8]) -> bool {
        let tape = self.shared.tape();
        let mut windows = tape.iter().flat_map(|tape| tape.windows(words.len()));
        windows.any(|window| window == words)
    }

    /// Passes nothing on until [`resume`](Self::resume).
    pub fn stall(&self) {
        *self.shared.stalled() = true;
    }

    /// Passes on again what was held back.
    pub fn resume(&self) {
        *self.shared.stalled() = false;
        self.shared.resumed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shut();
        self.resume();
        self.cut(Which::All, Cut::Now);
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stalled(&self) -> MutexGuard<'_, bool> {
        self.is_stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tape(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            if self.is_shut.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                // Whoever cannot be connected sees the connection closed.
                Ok((client, _)) => drop(self.clone().carry(client)),
                // Out of files, say: others may end meanwhile.
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn carry(self: Arc<Self>, client: TcpStream) -> io::Result<()> {
        let target = TcpStream::connect(self.target)?;
        client.set_nodelay(true)?;
        target.set_nodelay(true)?;
        let connection = Arc::new(Connection {
            client,
            target,
            allowed: [AtomicU64::new(u64::MAX), AtomicU64::new(u64::MAX)],
            is_cut: AtomicBool::new(false),
        });
        self.connections().push(connection.clone());
        std::thread::spawn(move || {
            let (shared, other) = (self.clone(), connection.clone());
            let back = std::thread::spawn(move || other.pump(Direction::ToClient, &shared));
            connection.pump(Direction::ToTarget, &self);
            back.join().expect("pumping does not panic");
            self.connections().retain(|one| !Arc::ptr_eq(one, &connection));
        });
        Ok(())
    }

    /// Waits while everything is held back, unless the connection is cut meanwhile.
    fn wait_to_pass(&self, connection: &Connection) {
        let mut stalled = self.stalled();
        while *stalled && !connection.is_cut() {
            stalled = self.resumed.wait(stalled).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Connection {
    /// Where bytes of `direction` come from, and where they go.
    fn ends(&self, direction: Direction) -> (&TcpStream, &TcpStream) {
        match direction {
            Direction::ToTarget => (&self.client, &self.target),
            Direction::ToClient => (&self.target, &self.client),
        }
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    fn strike(&self, cut: Cut) {
        match cut {
            Cut::Now => self.reset(),
            Cut::After { direction, bytes } => {
                self.allowed[direction as usize].fetch_min(bytes, Ordering::SeqCst);
            }
            Cut::OneWay(direction) => {
                let (from, to) = self.ends(direction);
                // An end that is gone already needs no more.
                let _ = to.shutdown(Shutdown::Write);
                let _ = from.shutdown(Shutdown::Read);
            }
        }
    }

    /// Both ends see a reset as soon as both threads have let go.
    fn reset(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        for end in [&self.client, &self.target] {
            // An end that is gone already needs no more.
            let _ = set_socket_linger(end, Some(Duration::ZERO));
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Passes bytes on until their stream ends or is cut.
    fn pump(&self, direction: Direction, shared: &Shared) {
        let (mut from, mut to) = self.ends(direction);
        let mut piece = [0; PIECE];
        loop {
            let read = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(read) => read,
                Err(_) => return self.reset(),
            };
            shared.wait_to_pass(self);
            if self.is_cut() {
                return;
            }
            let (passing, is_last) = self.allow(direction, read);
            if let Some(tape) = &mut *shared.tape() {
                tape.extend_from_slice(&piece[..passing]);
            }
            if to.write_all(&piece[..passing]).is_err() || is_last {
                return self.reset();
            }
        }
        // The other direction may go on.
        let _ = to.shutdown(Shutdown::Write);
    }

    /// How many of `read` bytes may pass, and whether none may after them.
    fn allow(&self, direction: Direction, read: usize) -> (usize, bool) {
        let allowed = &self.allowed[direction as usize];
        let left = allowed.load(Ordering::SeqCst);
        if left == u64::MAX {
            return (read, false);
        }
        let passing = left.min(read as u64);
        allowed.fetch_min(left - passing, Ordering::SeqCst);
        (passing as usize, passing == left)
    }
}

#[cfg(test)]
mod tests;
