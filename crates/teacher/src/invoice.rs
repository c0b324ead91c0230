//! What the server would put on an invoice: one line a request, on disk before the answer leaves.
//!
//! CSV with the columns of [`COLUMNS`]: milliseconds since 1970 (UTC), the client's name of the
//! request (`X-Request-Id`, or the protocol's `id`; `-` when it gave none), images billed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::SystemTime;

/// First line of the file.
pub const COLUMNS: &str = "time_unix_ms,request_id,images";

/// Append-only file.
#[derive(Debug)]
pub struct InvoiceFile {
    file: File,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoiceLine {
    /// Milliseconds since 1970, UTC.
    pub time_unix_ms: u64,
    /// The client's name of the request.
    pub request_id: String,
    /// Images billed.
    pub images: u64,
}

impl InvoiceFile {
    /// Opens the invoice at `path`, or begins one. A line that a crash cut short is removed: its
    /// answer never left.
    ///
    /// # Errors
    /// When the file cannot be opened, read or cut.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let mut bytes = vec![];
        file.read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        file.set_len(whole as u64)?;
        file.seek(SeekFrom::End(0))?;
        if whole == 0 {
            writeln!(file, "{COLUMNS}")?;
        }
        file.sync_all()?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self { file })
    }

    /// Writes a line for a request of `images` images, and waits until the disk has it. What
    /// cannot stand in a field of the file becomes `_` in its name.
    ///
    /// # Errors
    /// When the disk refuses; then the answer must not leave.
    pub fn append(&mut self, request_id: &str, images: usize) -> io::Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_millis();
        let plain = |c: char| {
            if c.is_ascii_graphic() && c != ',' && c != '"' {
                c
            } else {
                '_'
            }
        };
        let name: String = request_id.chars().map(plain).take(256).collect();
        let name = if name.is_empty() { "-" } else { &name };
        self.file.write_all(format!("{now},{name},{images}\n").as_bytes())?;
        self.file.sync_data()
    }

    /// The lines of the invoice at `path`, oldest first; none when there is no such file.
    ///
    /// # Errors
    /// When the file cannot be read, or a whole line is none.
    pub fn read(path: &Path) -> io::Result<Vec<InvoiceLine>> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            text => text?,
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let line = |line: &str| {
            let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("no line of an invoice: {line:?}"));
            let fields: Vec<&str> = line.split(',').collect();
            let [time, request_id, images] = fields[..] else {
                return Err(wrong());
            };
            Ok(InvoiceLine {
                time_unix_ms: time.parse().map_err(|_| wrong())?,
                request_id: request_id.to_owned(),
                images: images.parse().map_err(|_| wrong())?,
            })
        };
        whole.lines().skip(1).map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invoice_keeps_whole_lines_and_drops_a_torn_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("invoice.csv");
        assert!(InvoiceFile::read(&path).unwrap().is_empty());
        InvoiceFile::open(&path).unwrap().append("a,b\n\"c", 3).unwrap();
        let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
        torn.write_all(b"17000,tor").unwrap();
        let read = || -> Vec<(String, u64)> {
            let lines = InvoiceFile::read(&path).unwrap().into_iter();
            lines.map(|line| (line.request_id, line.images)).collect()
        };
        assert_eq!(read(), [("a_b__c".to_owned(), 3)]);
        InvoiceFile::open(&path).unwrap().append("", 1).unwrap();
        assert_eq!(read(), [("a_b__c".to_owned(), 3), ("-".to_owned(), 1)]);
        assert!(std::fs::read_to_string(&path).unwrap().starts_with(COLUMNS));
    }
}
