//! The two directions of a link, as frames.

use std::{io, net::SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf},
    net::{TcpStream, tcp::OwnedReadHalf},
    sync::{mpsc, oneshot},
};
use tokio_rustls::TlsStream;
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

use super::LinkError;
use super::strain::Strain;

/// Frames that may wait for the writer: enough to fill a write with small ones, few enough that a
/// slow peer is felt at once by whoever sends.
const QUEUED_FRAMES: usize = 32;
/// What the writer gathers from small frames before it writes; a socket takes about as much. A frame of this size is
/// written from where it lies: many links may send the same bytes.
const GATHERED_BYTES: usize = 128 << 10;
/// Read at a time, at least.
const READ_BYTES: usize = 16 << 10;

/// The sending direction. Clones share it; the last to go closes it, after what was sent.
#[derive(Clone, Debug)]
pub struct FrameSender {
    queue: mpsc::Sender<Item>,
    peer: SocketAddr,
    max_frame_bytes: usize,
}

/// What the writer is given.
#[derive(Debug)]
enum Item {
    Frame(Bytes),
    /// Answered once everything before it is in the system's hands.
    Flush(oneshot::Sender<()>),
}

impl FrameSender {
    /// Starts the writer, a task that ends with the link or with the last sender.
    pub(super) fn new(
        writer: impl AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
        max_frame_bytes: usize,
        strain: Strain,
    ) -> FrameSender {
        let (queue, items) = mpsc::channel(QUEUED_FRAMES);
        tokio::spawn(async move {
            if let Err(error) = write_all(items, writer, codec(max_frame_bytes), strain).await {
                tracing::debug!(%peer, %error, "lost a link while sending");
            }
        });
        FrameSender {
            queue,
            peer,
            max_frame_bytes,
        }
    }

    /// Sends a frame; waits while too many are queued. Frames of one sender keep their order.
    ///
    /// Success means queued: only an answer proves that the other end has it.
    ///
    /// # Errors
    /// [`LinkError::FrameTooLong`], after which the link goes on; [`LinkError::Closed`].
    pub async fn send(&self, payload: impl Into<Bytes>) -> Result<(), LinkError> {
        let payload = payload.into();
        if payload.len() > self.max_frame_bytes {
            return Err(LinkError::FrameTooLong {
                peer: self.peer,
                max_frame_bytes: self.max_frame_bytes,
            });
        }
        self.queue.send(Item::Frame(payload)).await.map_err(|_| self.closed())
    }

    /// Waits until every frame sent so far is in the system's hands.
    ///
    /// # Errors
    /// [`LinkError::Closed`] when some of them are lost.
    pub async fn flush(&self) -> Result<(), LinkError> {
        let (done, flushed) = oneshot::channel();
        self.queue.send(Item::Flush(done)).await.map_err(|_| self.closed())?;
        flushed.await.map_err(|_| self.closed())
    }

    /// Waits until nothing more can be sent.
    pub async fn closed_by_peer(&self) {
        self.queue.closed().await;
    }

    fn closed(&self) -> LinkError {
        LinkError::Closed { peer: self.peer }
    }
}

/// Writes what is queued, as many frames at a time as are there.
async fn write_all(
    mut items: mpsc::Receiver<Item>,
    mut writer: impl AsyncWrite + Unpin,
    mut codec: LengthDelimitedCodec,
    mut strain: Strain,
) -> io::Result<()> {
    let mut gathered = BytesMut::new();
    let mut flushes = Vec::new();
    loop {
        let mut next = tokio::select! {
            first = items.recv() => first,
            cut = strain.is_cut() => return Err(cut),
        };
        if next.is_none() {
            return writer.shutdown().await;
        }
        while let Some(item) = next {
            match item {
                Item::Frame(payload) if payload.len() >= GATHERED_BYTES => {
                    // Bounded when it was sent, so its length fits.
                    gathered.put_u32_le(payload.len() as u32);
                    strain.pass().await?;
                    let sent = async {
                        writer.write_all_buf(&mut gathered).await?;
                        writer.write_all(&payload).await
                    };
                    unless_cut(&mut strain, sent).await?;
                }
                Item::Frame(payload) => codec.encode(payload, &mut gathered)?,
                Item::Flush(done) => flushes.push(done),
            }
            next = if gathered.len() < GATHERED_BYTES {
                items.try_recv().ok()
            } else {
                None
            };
        }
        strain.pass().await?;
        let sent = async {
            writer.write_all_buf(&mut gathered).await?;
            // TLS may hold back what it has sealed.
            writer.flush().await
        };
        unless_cut(&mut strain, sent).await?;
        for done in flushes.drain(..) {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
        if gathered.capacity() > 4 * GATHERED_BYTES {
            gathered = BytesMut::new();
        }
    }
}

/// Does what moves bytes, unless the link is cut meanwhile.
async fn unless_cut<T>(strain: &mut Strain, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::select! {
        done = work => done,
        cut = strain.is_cut() => Err(cut),
    }
}

/// Where bytes come from.
#[derive(Debug)]
pub(super) enum Reader {
    Plain(OwnedReadHalf),
    Tls(ReadHalf<TlsStream<TcpStream>>),
}

impl Reader {
    /// Reads what is there; 0 bytes at the end. Cancel safe.
    async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(reader) => reader.read_buf(buffer).await,
            Self::Tls(reader) => reader.read_buf(buffer).await,
        }
    }
}

/// The receiving direction.
#[derive(Debug)]
pub struct FrameReceiver {
    reader: Reader,
    buffer: BytesMut,
    codec: LengthDelimitedCodec,
    peer: SocketAddr,
    max_frame_bytes: usize,
    strain: Strain,
}

impl FrameReceiver {
    pub(super) fn new(reader: Reader, peer: SocketAddr, max_frame_bytes: usize, strain: Strain) -> FrameReceiver {
        FrameReceiver {
            reader,
            buffer: BytesMut::new(),
            codec: codec(max_frame_bytes),
            peer,
            max_frame_bytes,
            strain,
        }
    }

    /// Returns the next frame's payload, or `None` once the other end has closed between frames. Under TLS
    /// an end counts only where the peer has said so: anybody on the way can close a connection.
    ///
    /// Cancel safe: a call that is dropped loses nothing.
    ///
    /// # Errors
    /// [`LinkError::FrameTooLong`] on an announced length over the bound, before any memory is
    /// taken for it; [`LinkError::Lost`]. The link cannot be read any further after either.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, LinkError> {
        let peer = self.peer;
        let lost = |source| LinkError::Lost { peer, source };
        loop {
            let frame = self.codec.decode(&mut self.buffer);
            let too_long = LinkError::FrameTooLong {
                peer,
                max_frame_bytes: self.max_frame_bytes,
            };
            if let Some(frame) = frame.map_err(|_| too_long)? {
                return Ok(Some(frame.freeze()));
            }
            self.buffer.reserve(READ_BYTES);
            self.strain.pass().await.map_err(lost)?;
            let read = unless_cut(&mut self.strain, self.reader.read(&mut self.buffer)).await;
            if read.map_err(lost)? == 0 {
                let ended = self.codec.decode_eof(&mut self.buffer).map_err(lost)?;
                return Ok(ended.map(BytesMut::freeze));
            }
        }
    }
}

fn codec(max_frame_bytes: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .little_endian()
        .length_field_type::<u32>()
        .max_frame_length(max_frame_bytes)
        .new_codec()
}
