//! A server that speaks S3 as a process: versitygw, which checks signatures and keeps objects as files.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::jobs::root;
use crate::mortal::Mortal;
use crate::ports::free_address;
use crate::processes::wait_for;

/// The one bucket.
pub const BUCKET: &str = "lab";
/// Who may use it.
pub const KEY: &str = "tester";
/// That user's secret.
pub const SECRET: &str = "a-secret-of-the-test";

/// What `scripts/object-store.sh` builds, if it is there.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let program = root().join(".tools/object-store/versitygw");
    program.is_file().then_some(program)
}

/// A server with one bucket. Stops when dropped.
#[derive(Debug)]
pub struct ObjectStore {
    process: Mortal,
    address: SocketAddr,
    buckets: PathBuf,
}

impl ObjectStore {
    /// Starts `program` with its objects and log in the folder `home`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(program: &Path, home: &Path) -> io::Result<Self> {
        let (address, buckets, notes) = (free_address(), home.join("buckets"), home.join("notes"));
        for folder in [&buckets.join(BUCKET), &notes] {
            std::fs::create_dir_all(folder)?;
        }
        let mut command = Command::new(program);
        command.args(["--port", &address.to_string(), "--access", KEY, "--secret", SECRET]);
        command.args(["posix", "--sidecar"]).arg(notes).arg(&buckets);
        let mut store = Self {
            process: Mortal::new(command, &home.join("log")),
            address,
            buckets,
        };
        store.revive();
        Ok(store)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where an object, or a folder of them, is on this machine.
    #[must_use]
    pub fn file(&self, key: &str) -> PathBuf {
        self.buckets.join(BUCKET).join(key)
    }

    /// Puts an object there by hand.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, key: &str, from: &Path) -> io::Result<()> {
        let to = self.file(key);
        to.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::copy(from, to).map(drop)
    }

    /// What a program that uses it is started with.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.into()),
        ]
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it, unless it lives, and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn revive(&mut self) {
        if self.process.id().is_none() {
            self.process.start();
            wait_for("the object store to listen", || {
                if let Some(status) = self.process.ended() {
                    panic!("the object store ended: {status}, see {}", self.process.log().display());
                }
                TcpStream::connect(self.address).ok()
            });
        }
    }
}
