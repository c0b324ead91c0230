//! What a server keeps of what it answered: bill, invoice, and keys that were billed.

use std::io;
use std::path::Path;
use std::sync::Mutex;

use super::model::Caller;
use super::replay::{Replays, locked};
use crate::bill::BillFile;
use crate::invoice::InvoiceFile;

/// The accounts of a server. Everything is on disk before an answer leaves.
#[derive(Debug, Default)]
pub struct Books {
    bill: Option<Mutex<BillFile>>,
    invoice: Option<Mutex<InvoiceFile>>,
    pub(super) replays: Replays,
}

impl Books {
    /// Opens or begins a `bill` and an `invoice`, where they are wanted. Idempotency keys outlive
    /// the server where there is a bill (in `BILL.keys`), else they are kept in memory.
    ///
    /// # Errors
    /// When a file cannot be opened, read or cut.
    pub fn open(bill: Option<&Path>, invoice: Option<&Path>) -> io::Result<Self> {
        Ok(Self {
            replays: Replays::open(bill)?,
            bill: bill.map(BillFile::open).transpose()?.map(Mutex::new),
            invoice: invoice.map(InvoiceFile::open).transpose()?.map(Mutex::new),
        })
    }

    /// Enters one answer for the images with these `digests`; `images` is the digest of all.
    pub(super) fn enter(&self, caller: &Caller, images: [u8; 32], digests: &[[u8; 32]]) -> io::Result<()> {
        if let Some(key) = &caller.idempotency_key {
            self.replays.record(key, images)?;
        }
        if let Some(bill) = &self.bill {
            locked(bill).append(digests)?;
        }
        if let Some(invoice) = &self.invoice {
            locked(invoice).append(&caller.request_id, digests.len())?;
        }
        Ok(())
    }

    /// Whether anything depends on which images were asked.
    pub(super) fn wants_digests(&self, caller: &Caller) -> bool {
        self.bill.is_some() || caller.idempotency_key.is_some()
    }
}

impl From<Option<BillFile>> for Books {
    /// A bill alone; keys are kept in memory.
    fn from(bill: Option<BillFile>) -> Self {
        Self {
            bill: bill.map(Mutex::new),
            ..Self::default()
        }
    }
}
