//! A tar, optionally gzipped, of PNG and JPEG files. Nothing is extracted to disk.
//!
//! Entries are walked in the crate's raw mode, so that long names (GNU and PAX headers, which the
//! crate would read into memory whatever their size) are bounded here.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use stillhouse_core::ImageSet;
use stillhouse_core::job::Size;
use tar::{Archive, Entry, EntryType};

use crate::assemble::{Assembler, Picks};
use crate::error::DataError;
use crate::limits::{Limit, MAX_ENCODED_BYTES};
use crate::names::{Tally, is_hidden, is_picture};
use crate::picture::Picture;
use crate::stream::Stream;

/// Bytes of one header of names and attributes, and of one path: ample for `PATH_MAX`, 4,096, and
/// the extended attributes that some writers add.
const MAX_HEADER_BYTES: u64 = 1 << 20;
const MAX_PATH_BYTES: usize = 4096;

/// Bytes read after the end of the archive to verify a gzip checksum; the padding of a tar is
/// 10 KiB at most.
const MAX_PADDING_BYTES: u64 = 1 << 20;

/// The images of a tar in byte order of their paths; nothing is decoded yet.
pub(crate) struct TarSource {
    path: PathBuf,
    images: Vec<Image>,
    skipped: u64,
}

/// One image: its path, and how many regular files come before it.
struct Image {
    name: Vec<u8>,
    position: u64,
}

impl TarSource {
    /// Lists the archive. Links and hidden paths are skipped; of entries with one path the last
    /// counts, as when unpacked.
    pub(crate) fn open(path: &Path) -> Result<Self, DataError> {
        let mut tally = Tally::default();
        let mut images = Vec::new();
        let mut skipped = 0;
        walk(path, |position, name, _| {
            if is_picture(name) && !is_hidden(name) {
                tally.add(name, path)?;
                images.push(Image {
                    name: name.to_vec(),
                    position,
                });
            } else {
                skipped += 1;
            }
            Ok(())
        })?;
        images.sort_unstable_by(|a, b| a.name.cmp(&b.name).then(b.position.cmp(&a.position)));
        images.dedup_by(|later, kept| later.name == kept.name);
        Ok(Self {
            path: path.to_owned(),
            images,
            skipped,
        })
    }

    pub(crate) fn len(&self) -> u64 {
        self.images.len() as u64
    }

    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.images.iter().map(|image| image.name.as_slice())
    }

    /// Walks the archive again and decodes the picked images only.
    pub(crate) fn read(&self, picks: &Picks, size: Option<Size>) -> Result<ImageSet, DataError> {
        let available = self.images.len() as u32;
        let mut assembler = Assembler::new(picks.count(available), size)?;
        let slots: HashMap<u64, (usize, &Image)> = picks
            .indices(available)
            .map(|index| &self.images[index as usize])
            .enumerate()
            .map(|(slot, image)| (image.position, (slot, image)))
            .collect();
        walk(&self.path, |position, name, contents| {
            let Some(&(slot, image)) = slots.get(&position) else {
                return Ok(());
            };
            if image.name != name {
                return Err(DataError::Changed {
                    path: self.path.clone(),
                });
            }
            let place = format!("{}: {}", self.path.display(), String::from_utf8_lossy(name));
            let picture = Picture::decode(&contents.read(&place)?, &place)?;
            assembler.put(slot, picture, &place)
        })?;
        assembler.finish(&self.path)
    }
}

/// The bytes of one entry, not read yet.
struct Contents<'a, 'b> {
    entry: &'a mut Entry<'b, Stream>,
    path: &'a Path,
}

impl Contents<'_, '_> {
    fn read(self, place: &str) -> Result<Vec<u8>, DataError> {
        let found = self.entry.size();
        if found > MAX_ENCODED_BYTES {
            return Err(DataError::TooLarge {
                place: place.to_owned(),
                limit: Limit::EncodedBytes,
                found,
            });
        }
        read_whole(self.entry).map_err(|source| corrupt(self.path, source))
    }
}

/// Calls `visit` with the position, path and contents of every regular file.
fn walk(
    path: &Path,
    mut visit: impl FnMut(u64, &[u8], Contents<'_, '_>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let stream = Stream::open(path)?;
    if !starts_like_a_tar(stream.head()) {
        return Err(stream.is_not("a tar"));
    }
    let mut archive = Archive::new(stream);
    let failed = |source| corrupt(path, source);
    let mut position = 0;
    let mut long_name = None;
    for entry in archive.entries().map_err(failed)?.raw(true) {
        let mut entry = entry.map_err(failed)?;
        match entry.header().entry_type() {
            EntryType::GNULongName => long_name = Some(gnu_name(&mut entry).map_err(failed)?),
            EntryType::XHeader => long_name = pax_name(&mut entry).map_err(failed)?.or(long_name),
            EntryType::Regular | EntryType::Continuous => {
                let name = long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let entry = &mut entry;
                visit(position, &tidy(&name).map_err(failed)?, Contents { entry, path })?;
                position += 1;
            }
            EntryType::XGlobalHeader | EntryType::GNULongLink => {}
            _ => long_name = None,
        }
    }
    io::copy(&mut archive.into_inner().take(MAX_PADDING_BYTES), &mut io::sink()).map_err(failed)?;
    Ok(())
}

/// Whether the first block is a header of ustar or GNU tar, one of the seventh edition (known by its
/// checksum alone), or the end of an empty archive.
fn starts_like_a_tar(head: &[u8]) -> bool {
    let Ok(block) = <&[u8; 512]>::try_from(head) else {
        return false;
    };
    let checksum = tar::Header::from_byte_slice(block).cksum().ok();
    let field = 148..156;
    let sum = block
        .iter()
        .enumerate()
        .map(|(at, &byte)| if field.contains(&at) { 32 } else { u32::from(byte) })
        .sum();
    block[257..].starts_with(b"ustar") || checksum == Some(sum) || block.iter().all(|&byte| byte == 0)
}

fn gnu_name(entry: &mut Entry<'_, Stream>) -> io::Result<Vec<u8>> {
    let mut name = read_header(entry)?;
    while name.last() == Some(&0) {
        name.pop();
    }
    Ok(name)
}

/// The `path` of a PAX header. A `size` there is needed by files of 8 GiB and more only.
fn pax_name(entry: &mut Entry<'_, Stream>) -> io::Result<Option<Vec<u8>>> {
    let header = read_header(entry)?;
    let mut rest = header.as_slice();
    let mut name = None;
    while !rest.is_empty() {
        let (key, value, after) = pax_record(rest).ok_or_else(|| invalid("found a malformed PAX header"))?;
        match key {
            b"path" => name = Some(value.to_vec()),
            b"size" => {
                return Err(invalid(
                    "found an entry with its size in a PAX header, expected below 8 GiB",
                ));
            }
            _ => {}
        }
        rest = after;
    }
    Ok(name)
}

/// Key and value of the first record, `LENGTH KEY=VALUE\n`, and what follows it. The length counts the
/// whole record, so that a value (an extended attribute, say) may hold any byte.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let length: usize = std::str::from_utf8(&bytes[..digits]).ok()?.parse().ok()?;
    let (record, after) = bytes.split_at_checked(length)?;
    let record = record.get(digits..)?.strip_prefix(b" ")?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], after))
}

fn read_header(entry: &mut Entry<'_, Stream>) -> io::Result<Vec<u8>> {
    if entry.size() > MAX_HEADER_BYTES {
        return Err(invalid("found a header of more than 1 MiB"));
    }
    read_whole(entry)
}

/// All bytes of an entry, the size of which has been checked.
fn read_whole(entry: &mut Entry<'_, Stream>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    if bytes.len() as u64 == entry.size() {
        Ok(bytes)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

/// The path without empty and `.` components, so that `./cat/1.png` is `cat/1.png`.
fn tidy(name: &[u8]) -> io::Result<Vec<u8>> {
    if name.len() > MAX_PATH_BYTES {
        return Err(invalid("found a path of more than 4096 bytes"));
    }
    let components = name.split(|&byte| byte == b'/');
    let kept: Vec<&[u8]> = components.filter(|part| !part.is_empty() && *part != b".").collect();
    Ok(kept.join(&b'/'))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

fn corrupt(path: &Path, source: io::Error) -> DataError {
    DataError::Corrupt {
        path: path.to_owned(),
        what: "tar",
        source,
    }
}
