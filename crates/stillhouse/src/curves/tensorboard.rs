//! Event files of TensorBoard: one a student, `JOB/ARM/events.out.tfevents.SECONDS.DIGEST.stillhouse`.
//!
//! The name is made of the job's first start and its digest, so that writing again replaces the file.
//!
//! A file is a series of records, numbers in little-endian order:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | length of the event |
//! | 4 | masked CRC-32C of those 8 bytes |
//! | length | the event, a protocol buffer |
//! | 4 | masked CRC-32C of the event |
//!
//! The first event names the version; each further one is a round. Sources: `tensorboard/compat/proto`
//! (`event.proto`, `summary.proto`) and `record_writer.py` beside it.

use std::path::{Path, PathBuf};

use crc::{CRC_32_ISCSI, Crc};
use prost::Message;
use stillhouse_core::plan::Arm;

use super::{CurveFile, Point, path_part, points};
use crate::failure::{Failure, Kind};
use crate::report::number::short;
use crate::report::summary::{ArmSummary, Summary};

/// What the first event says.
const VERSION: &str = "brain.Event:2";
/// How the name of every event file begins.
const PREFIX: &str = "events.out.tfevents.";
/// Added to a rotated checksum, so that checksums of checksums do not meet.
const MASK: u32 = 0xa282_ead8;

static CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// `tensorboard.Event`, as far as scalars need it.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Scalars),
}

/// `tensorboard.Summary`.
#[derive(Clone, PartialEq, Message)]
struct Scalars {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

/// `tensorboard.Summary.Value`. `simple_value` is in a `oneof`: it is written when it is 0, too.
#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
}

/// The event files of a job.
#[must_use]
pub fn files(summary: &Summary) -> Vec<CurveFile> {
    let file = |(arm, of)| CurveFile::new(path(summary, arm), encode(summary, of));
    summary.arms().map(file).collect()
}

/// Refuses to mix the curves of two jobs: TensorBoard draws all files of a folder as one curve.
///
/// # Errors
/// When `to` has another event file where one of `files` belongs.
pub(super) fn check(files: &[CurveFile], to: &Path) -> Result<(), Failure> {
    for file in files {
        let path = to.join(&file.path);
        let Some(Ok(entries)) = path.parent().map(std::fs::read_dir) else {
            continue;
        };
        let names = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let is_event_file = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy());
            name.is_some_and(|name| name.starts_with(PREFIX))
        };
        if let Some(other) = names.filter(is_event_file).find(|other| *other != path) {
            let message = format!("{} is of another job of the same name", other.display());
            return Err(Failure::message(Kind::Directory, message).hint("remove it, or name another --to"));
        }
    }
    Ok(())
}

fn path(summary: &Summary, arm: Arm) -> PathBuf {
    let seconds = summary.started.unix_ms / 1_000;
    let digest = path_part(&short(&summary.job.digest));
    let folder = PathBuf::from(path_part(&summary.job.name)).join(arm.to_string());
    folder.join(format!("{PREFIX}{seconds:010}.{digest}.stillhouse"))
}

fn encode(summary: &Summary, arm: &ArmSummary) -> Vec<u8> {
    let first = Event {
        wall_time: summary.started.unix_ms as f64 / 1e3,
        step: 0,
        what: Some(What::FileVersion(VERSION.to_owned())),
    };
    let rounds = points(summary, arm).into_iter().map(event);
    std::iter::once(first)
        .chain(rounds)
        .flat_map(|event| record(&event.encode_to_vec()))
        .collect()
}

fn event(point: Point) -> Event {
    let scalar = |(name, value): (&str, f64)| Scalar {
        tag: name.to_owned(),
        simple_value: Some(value as f32),
    };
    let value = point.values.into_iter().map(scalar).collect();
    Event {
        wall_time: point.unix_ms as f64 / 1e3,
        step: point.step,
        what: Some(What::Summary(Scalars { value })),
    }
}

fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let (before, after) = (masked(&length).to_le_bytes(), masked(event).to_le_bytes());
    [&length[..], &before, event, &after].concat()
}

/// The CRC-32C of `bytes`, rotated by 15 bits and shifted by a constant.
fn masked(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes).rotate_right(15).wrapping_add(MASK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    /// CRC-32C bit by bit.
    fn slow_crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0_u32, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
                1 => (crc >> 1) ^ 0x82f6_3b78,
                _ => crc >> 1,
            })
        })
    }

    /// The events of a file, every checksum checked.
    fn decode(mut bytes: &[u8]) -> Vec<Event> {
        let check = |bytes: &[u8], sum: &[u8]| {
            let crc = slow_crc(bytes);
            let masked = crc.rotate_left(17).wrapping_add(0xa282_ead8);
            assert_eq!(masked.to_le_bytes(), sum);
        };
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
            check(&bytes[..8], &bytes[8..12]);
            let (event, rest) = bytes[12..].split_at(length);
            check(event, &rest[..4]);
            events.push(Event::decode(event).unwrap());
            bytes = &rest[4..];
        }
        events
    }

    #[test]
    fn a_record_is_the_one_that_tensorboard_writes() {
        assert_eq!(CRC.checksum(b"123456789"), 0xe306_9283);
        let event = Event {
            wall_time: 1_772_366_400.0,
            step: 0,
            what: Some(What::FileVersion(VERSION.to_owned())),
        };
        // What RecordWriter of tensorboard 2.21.0 makes of Event(wall_time=1772366400.0, file_version="brain.Event:2").
        let expected = "1800000000000000a37f4b2209000000900a69da411a0d627261696e2e4576656e743a3236cc87f0";
        assert_eq!(stillhouse_core::key::hex(&record(&event.encode_to_vec())), expected);
    }

    #[test]
    fn a_file_has_its_version_and_then_an_event_a_round() {
        let summary = example::summary();
        let files = files(&summary);
        let paths: Vec<_> = files.iter().map(|file| file.path.to_str().unwrap()).collect();
        assert_eq!(
            paths,
            [
                "mnist-lenet/active/events.out.tfevents.1772366400.5d41402abc.stillhouse",
                "mnist-lenet/control/events.out.tfevents.1772366400.5d41402abc.stillhouse"
            ]
        );
        let events = decode(&files[0].bytes);
        assert_eq!(events[0].what, Some(What::FileVersion("brain.Event:2".to_owned())));
        assert_eq!(events.len(), 1 + 5);
        let last = &events[5];
        assert_eq!((last.step, last.wall_time > events[4].wall_time), (26_000, true));
        let Some(What::Summary(scalars)) = &last.what else {
            panic!()
        };
        let value = |tag: &str| {
            scalars
                .value
                .iter()
                .find(|value| value.tag == tag)
                .unwrap()
                .simple_value
        };
        assert_eq!(value("accuracy/last"), Some(0.9915));
        assert_eq!(value("seconds/train"), Some(136.0));
        assert_eq!(value("queries/held"), Some(3.0));
    }

    #[test]
    fn a_measured_nothing_is_written() {
        let scalar = Scalar {
            tag: String::new(),
            simple_value: Some(0.0),
        };
        assert_eq!(scalar.encode_to_vec(), [0x15, 0, 0, 0, 0]);
    }

    #[test]
    fn curves_of_two_jobs_are_not_mixed() {
        let to = tempfile::tempdir().unwrap();
        let mut summary = example::summary();
        let folder = to.path().join("mnist-lenet/control");
        std::fs::create_dir_all(&folder).unwrap();
        assert!(check(&files(&summary), to.path()).is_ok());
        let of_this = files(&summary).remove(1).path;
        std::fs::write(to.path().join(of_this), "").unwrap();
        assert!(check(&files(&summary), to.path()).is_ok());
        summary.job.digest = "another".to_owned();
        let refused = check(&files(&summary), to.path()).unwrap_err();
        assert!(
            refused.to_string().contains("another job of the same name"),
            "{refused}"
        );
    }
}
