//! One of a rank's two connections, sealed or in clear.

use std::{
    io::{self, BufReader, IoSlice, IoSliceMut, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::Connection;

use super::seal::{self, Binding};

/// Read ahead of a session, which takes 4 KiB at a time; and sealed at most before it must be sent. About a frame.
const SEALED_BYTES: usize = 128 << 10;

/// A connection, used in one direction once the ring has formed.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Arc<TcpStream>,
    sealed: Option<Box<Sealed>>,
}

/// A session and what has come for it.
#[derive(Debug)]
struct Sealed {
    session: Connection,
    incoming: BufReader<Socket>,
}

/// Reads a socket that others hold too.
#[derive(Debug)]
struct Socket(Arc<TcpStream>);

impl Read for Socket {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(bytes)
    }
}

impl Wire {
    /// A connection in clear.
    pub(super) fn clear(stream: Arc<TcpStream>) -> Wire {
        Wire { stream, sealed: None }
    }

    /// Makes `session` over a blocking connection, before `until`.
    pub(super) fn seal(stream: Arc<TcpStream>, mut session: Connection, until: Instant) -> io::Result<Wire> {
        session.set_buffer_limit(Some(SEALED_BYTES));
        let incoming = BufReader::with_capacity(SEALED_BYTES, Socket(stream.clone()));
        let mut sealed = Sealed { session, incoming };
        while sealed.session.is_handshaking() {
            sealed.flush(&stream)?;
            if sealed.session.is_handshaking() {
                wait_until(&stream, until)?;
                retry(sealed.take_in(&stream))?;
            }
        }
        sealed.flush(&stream)?;
        let sealed = Some(Box::new(sealed));
        Ok(Wire { stream, sealed })
    }

    /// The socket below.
    pub(super) fn stream(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    /// What both ends of the session alone know of it, where there is one.
    pub(super) fn binding(&self) -> io::Result<Option<Binding>> {
        let binding = self.sealed.as_ref().map(|sealed| seal::binding(&sealed.session));
        binding.transpose().map_err(io::Error::other)
    }

    /// Sends what one call takes of `parts`, which hold something.
    pub(super) fn send(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(sealed) = &mut self.sealed else {
            return (&*self.stream).write_vectored(parts);
        };
        // What was sealed before goes first, and bounds what is held.
        sealed.flush(&self.stream)?;
        let taken = sealed.session.writer().write_vectored(parts)?;
        match sealed.flush(&self.stream) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Whether something that was taken is yet to be sent.
    pub(super) fn holds_back(&self) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.session.wants_write())
    }

    /// Sends what is held back.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.sealed {
            Some(sealed) => sealed.flush(&self.stream),
            None => Ok(()),
        }
    }

    /// Receives what one call brings; 0 bytes at the end.
    pub(super) fn receive(&mut self, parts: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let Some(sealed) = &mut self.sealed else {
            return (&*self.stream).read_vectored(parts);
        };
        loop {
            match sealed.session.reader().read_vectored(parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sealed.take_in(&self.stream)?,
                read => return read,
            }
        }
    }

    /// Sends all of `bytes` over a blocking connection.
    pub(super) fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut said = 0;
        while said < bytes.len() {
            said += self.send(&[IoSlice::new(&bytes[said..])])?;
        }
        self.flush()
    }

    /// Receives exactly `N` bytes over a blocking connection before `until`, however slowly they trickle.
    pub(super) fn hear<const N: usize>(&mut self, until: Instant) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            wait_until(&self.stream, until)?;
            let mut rest = [IoSliceMut::new(&mut bytes[filled..])];
            match retry(self.receive(&mut rest))? {
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read.unwrap_or(0),
            }
        }
        Ok(bytes)
    }
}

impl Sealed {
    /// Sends what is sealed.
    fn flush(&mut self, stream: &TcpStream) -> io::Result<()> {
        while self.session.wants_write() {
            if self.session.write_tls(&mut &*stream)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Takes in some of what has come.
    fn take_in(&mut self, stream: &TcpStream) -> io::Result<()> {
        if self.session.read_tls(&mut self.incoming)? == 0 && self.session.is_handshaking() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let unsealed = self.session.process_new_packets();
        unsealed.map(drop).map_err(|error| {
            // The neighbour may hear why; what counts is the error.
            let _ = self.flush(stream);
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }
}

/// Lets a blocking read take until `until`.
fn wait_until(stream: &TcpStream, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    // Rounded up to a unit that the system accepts: a timeout of zero means none.
    stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))
}

/// `None` where a read brought nothing and may be tried again.
fn retry<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
