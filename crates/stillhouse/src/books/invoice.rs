//! The provider's bill, in the forms that it comes in.
//!
//! | form | how it is told | what a line says |
//! |---|---|---|
//! | CSV | a header with `request_id` and one of `images`, `count`, `quantity` | so many images were billed in that request |
//! | bill file | 64 hexadecimal digits a line, nothing else | the image with this BLAKE3 of its pixels was billed |
//!
//! Other columns are skipped; a request that occurs in several lines is the sum of them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow, bail};

use crate::failure::{Failure, Kind};

/// A bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invoice {
    /// Images billed, by request: 32 lower-case hexadecimal digits where it is one of ours.
    Requests(BTreeMap<String, u64>),
    /// How often each image was billed, by BLAKE3 of its pixels.
    Images(BTreeMap<[u8; 32], u64>),
    /// Images billed, in all.
    Total(u64),
}

/// Names of the column of requests.
const REQUEST: [&str; 2] = ["request_id", "x_request_id"];
/// Names of the column of images.
const IMAGES: [&str; 3] = ["images", "count", "quantity"];

impl Invoice {
    /// Reads the bill at `path`.
    ///
    /// # Errors
    /// When it cannot be read, or has none of the known forms.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let refused = |error: anyhow::Error| {
            Failure::new(Kind::Usage, error)
                .context(format!("cannot use the bill {}", path.display()))
                .hint("a bill is CSV with request_id and images, or one BLAKE3 of pixels a line; or give --billed N")
        };
        let bytes = std::fs::read(path).map_err(|error| refused(error.into()))?;
        Self::parse(&bytes).map_err(refused)
    }

    /// Reads the bytes of a bill.
    ///
    /// # Errors
    /// When they have none of the known forms.
    pub fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(bytes).context("expected text")?;
        let first = text.lines().map(str::trim).find(|line| !line.is_empty());
        match first {
            // A server that has billed nothing yet has an empty bill file.
            None => Ok(Self::Images(BTreeMap::new())),
            Some(line) if blake3::Hash::from_hex(line).is_ok() => images(text).map(Self::Images),
            Some(_) => requests(text).map(Self::Requests),
        }
    }

    /// Images billed, in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        match self {
            Self::Requests(requests) => requests.values().sum(),
            Self::Images(images) => images.values().sum(),
            Self::Total(total) => *total,
        }
    }
}

fn images(text: &str) -> anyhow::Result<BTreeMap<[u8; 32], u64>> {
    let mut images = BTreeMap::new();
    let lines = text.lines().map(str::trim).enumerate();
    for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
        let digest = blake3::Hash::from_hex(line);
        let digest = digest.map_err(|error| anyhow!("line {}: expected 64 hexadecimal digits: {error}", at + 1))?;
        *images.entry(*digest.as_bytes()).or_insert(0) += 1;
    }
    Ok(images)
}

fn requests(text: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let header = reader.headers()?.clone();
    let plain = |name: &str| {
        name.trim_start_matches('\u{feff}')
            .to_lowercase()
            .replace(['-', ' '], "_")
    };
    let column = |names: &[&str]| {
        let found = header.iter().position(|name| names.contains(&plain(name).as_str()));
        found.ok_or_else(|| anyhow!("expected a column {}, found {:?}", names.join(" or "), header))
    };
    let (request, images) = (column(&REQUEST)?, column(&IMAGES)?);
    let mut requests = BTreeMap::new();
    for row in reader.records() {
        let row = row?;
        let line = row.position().map_or(0, csv::Position::line);
        let cell = |at: usize| row.get(at).unwrap_or_default();
        let Ok(images) = cell(images).parse::<u64>() else {
            bail!("line {line}: expected a number of images, found {:?}", cell(images));
        };
        *requests.entry(normal(cell(request))).or_insert(0) += images;
    }
    Ok(requests)
}

/// A request id as we write it, whether it came with dashes, braces or in capitals.
fn normal(id: &str) -> String {
    let digits: String = id.chars().filter(|c| !matches!(c, '-' | '{' | '}')).collect();
    let ours = digits.len() == 32 && digits.chars().all(|c| c.is_ascii_hexdigit());
    if ours { digits.to_lowercase() } else { id.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_csv_of_any_provider_is_read_by_its_column_names() {
        let text = "\u{feff}Date, Request-ID ,Quantity\n\
                    1,0123456789ABCDEF-0123456789ABCDEF,3\n2,\"other, client\",1\n3,0123456789abcdef0123456789abcdef,2\n";
        let invoice = Invoice::parse(text.as_bytes()).expect("a bill");
        let want = [("0123456789abcdef0123456789abcdef", 5), ("other, client", 1)];
        let want = want.map(|(id, images)| (id.to_owned(), images));
        assert_eq!(invoice, Invoice::Requests(want.into()));
        assert_eq!(invoice.total(), 6);
    }

    #[test]
    fn a_bill_file_counts_each_image() {
        let [a, b] = [blake3::hash(b"a"), blake3::hash(b"b")];
        let text = format!("{}\n{}\n{}\n", a.to_hex(), b.to_hex(), a.to_hex());
        let invoice = Invoice::parse(text.as_bytes()).expect("a bill");
        assert_eq!(
            invoice,
            Invoice::Images([(*a.as_bytes(), 2), (*b.as_bytes(), 1)].into())
        );
        assert_eq!(Invoice::parse(b"").expect("an empty bill").total(), 0);
    }

    #[test]
    fn what_is_no_bill_is_refused_with_its_line() {
        let digest = blake3::hash(b"a").to_hex();
        for (text, want) in [
            ("a,b\n1,2\n".to_owned(), "expected a column request_id or x_request_id"),
            (
                "request_id,price\nx,2\n".to_owned(),
                "expected a column images or count or quantity",
            ),
            (
                "request_id,images\nx,two\n".to_owned(),
                "line 2: expected a number of images, found \"two\"",
            ),
            (
                "request_id,images\nx,-1\n".to_owned(),
                "line 2: expected a number of images, found \"-1\"",
            ),
            (format!("{digest}\nnothing\n"), "line 2: expected 64 hexadecimal digits"),
        ] {
            let error = Invoice::parse(text.as_bytes()).expect_err("no bill");
            assert!(error.to_string().starts_with(want), "{error}");
        }
        assert!(Invoice::parse(&[0xff, 0xfe]).is_err());
    }
}
