//! The server's own account of what it answered: one line an image, on disk before the answer
//! leaves. What a test compares with the ledger's budget.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use stillhouse_core::key::hex;

/// Bytes of one line: 64 hexadecimal digits and a line feed.
const LINE_BYTES: u64 = 65;

/// Append-only file; each line is the BLAKE3 of the `u8` pixels of one billed image.
#[derive(Debug)]
pub struct BillFile {
    file: File,
}

impl BillFile {
    /// Opens the bill at `path`, or begins one. A line that a crash cut short is removed: its
    /// answer never left.
    ///
    /// # Errors
    /// When the file cannot be opened, read or cut.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let length = file.metadata()?.len();
        file.set_len(length - length % LINE_BYTES)?;
        file.sync_all()?;
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(Self { file })
    }

    /// Writes one line a digest, in one piece, and waits until the disk has them.
    ///
    /// # Errors
    /// When the disk refuses; then the answer must not leave.
    pub fn append(&mut self, digests: &[[u8; 32]]) -> io::Result<()> {
        let lines: String = digests.iter().map(|digest| hex(digest) + "\n").collect();
        self.file.write_all(lines.as_bytes())?;
        self.file.sync_data()
    }

    /// The lines of the bill at `path`, oldest first; none when there is no such file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(path: &Path) -> io::Result<Vec<String>> {
        let mut text = String::new();
        match File::open(path) {
            Ok(mut file) => file.read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(error),
        };
        let whole = text.len() - text.len() % LINE_BYTES as usize;
        Ok(text[..whole].lines().map(str::to_owned).collect())
    }

    /// What one image is billed as: BLAKE3 of its pixels.
    #[must_use]
    pub fn digest(pixels: &[u8]) -> [u8; 32] {
        *blake3::hash(pixels).as_bytes()
    }
}

/// Lines of a bill beyond the `allowed` ones of each image.
#[must_use]
pub fn repeats(bill: &[String], allowed: u64) -> u64 {
    let mut times: HashMap<&str, u64> = HashMap::new();
    bill.iter().for_each(|image| *times.entry(image).or_default() += 1);
    times.values().map(|times| times.saturating_sub(allowed)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bill_keeps_whole_lines_and_drops_a_torn_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bill");
        assert!(BillFile::read(&path).unwrap().is_empty());
        let (one, two) = (BillFile::digest(&[1]), BillFile::digest(&[2]));
        BillFile::open(&path).unwrap().append(&[one, two]).unwrap();
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"0123")
            .unwrap();
        assert_eq!(BillFile::read(&path).unwrap(), [hex(&one), hex(&two)]);
        BillFile::open(&path).unwrap().append(&[one]).unwrap();
        assert_eq!(BillFile::read(&path).unwrap(), [hex(&one), hex(&two), hex(&one)]);
    }

    #[test]
    fn an_image_that_is_billed_too_often_is_counted() {
        let bill = ["a", "b", "a", "a", "c", "c"].map(str::to_owned);
        assert_eq!(repeats(&bill, 1), 3);
        assert_eq!(repeats(&bill, 2), 1);
        assert_eq!(repeats(&bill, 3), 0);
    }
}
