//! Waits, deadlines, abort and shrink, against a library that plays what NCCL would report.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;

use super::*;

/// Reached by what would otherwise hang.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(20);

/// A library of its own for each test, so that its counters are the test's.
struct Fake {
    nccl: Nccl,
    _folder: tempfile::TempDir,
}

impl Fake {
    fn of_version(version: u32) -> Option<Self> {
        if Command::new("cc").arg("--version").output().is_err() {
            println!("skipped: there is no C compiler");
            return None;
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake_nccl.c");
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libfake.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-Wall", "-Wextra", "-Werror"]);
        compiler.arg(format!("-DVERSION={version}")).arg(source);
        let compiled = compiler.arg("-o").arg(&library).output().unwrap();
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        let nccl = Nccl::open_at(&library).unwrap();
        Some(Self { nccl, _folder: folder })
    }

    fn new() -> Option<Self> {
        Self::of_version(23_203)
    }

    /// Joins as rank 1 of 3.
    fn join(&self, kind: u8, timeout: Duration) -> Result<Communicator, NcclError> {
        Communicator::join(self.nccl, PLACE, &UniqueId::from_bytes([kind; 128]), timeout)
    }

    /// What was called how often.
    fn calls(&self) -> String {
        self.nccl.cause(0).last_message
    }
}

const PLACE: Place = Place { rank: 1, world_size: 3 };

fn memory(floats: usize) -> DevicePointer {
    DevicePointer::nowhere(floats)
}

fn all_reduce(communicator: &Communicator) -> Result<(), NcclError> {
    communicator.all_reduce(memory(4), memory(4), Stream::DEFAULT)
}

#[test]
fn joining_waits_for_the_others_and_dropping_aborts_once() {
    let Some(fake) = Fake::new() else { return };
    let communicator = fake.join(b'r', LONG).unwrap();
    assert_eq!(communicator.place(), PLACE);
    assert_eq!(fake.calls(), "made 1 aborted 0 finalized 0 destroyed 0");
    drop(communicator);
    assert_eq!(fake.calls(), "made 1 aborted 1 finalized 0 destroyed 0");
}

#[test]
fn joining_that_takes_too_long_is_given_up_and_aborted() {
    let Some(fake) = Fake::new() else { return };
    let error = fake.join(b'n', SHORT).unwrap_err();
    let NcclError::TimedOut {
        place,
        operation,
        waited,
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!((place, operation), (PLACE, INIT));
    assert!(waited >= SHORT);
    assert_eq!(fake.calls(), "made 1 aborted 1 finalized 0 destroyed 0");
}

#[test]
fn joining_that_breaks_names_the_cause_and_leaves_nothing_behind() {
    let Some(fake) = Fake::new() else { return };
    for (kind, expected) in [(b'b', 6), (b'x', 3), (b'y', 3)] {
        let error = fake.join(kind, LONG).unwrap_err();
        let NcclError::Failed {
            place,
            operation,
            cause,
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((place, operation, cause.code), (PLACE, INIT, expected));
    }
    assert_eq!(fake.calls(), "made 2 aborted 2 finalized 0 destroyed 0");
}

#[test]
fn operations_are_taken_in_and_waited_for() {
    let Some(fake) = Fake::new() else { return };
    let communicator = fake.join(b'r', LONG).unwrap();
    all_reduce(&communicator).unwrap();
    communicator.broadcast(memory(4), 2, Stream::DEFAULT).unwrap();
    communicator.all_gather(memory(4), memory(12), Stream::DEFAULT).unwrap();
    let mut looks = 0;
    let done = || {
        looks += 1;
        Ok(looks >= 5)
    };
    communicator.wait("all-gather", done).unwrap();
    assert_eq!(looks, 5);
    let broken = communicator.wait("all-gather", || Err("lost".to_owned())).unwrap_err();
    assert_eq!(broken.to_string(), "rank 1 of 3: all-gather: the stream failed: lost");
}

#[test]
fn lengths_and_ranks_that_do_not_fit_are_refused() {
    let Some(fake) = Fake::new() else { return };
    let communicator = fake.join(b'r', LONG).unwrap();
    let refused = [
        communicator.all_reduce(memory(4), memory(5), Stream::DEFAULT),
        communicator.broadcast(memory(4), 3, Stream::DEFAULT),
        communicator.all_gather(memory(4), memory(8), Stream::DEFAULT),
        communicator.all_gather(memory(usize::MAX), memory(8), Stream::DEFAULT),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(NcclError::Argument { .. })), "{refused:?}");
    }
}

#[test]
fn an_error_of_another_rank_ends_an_operation_that_is_being_taken_in() {
    let Some(fake) = Fake::new() else { return };
    let communicator = fake.join(b'd', LONG).unwrap();
    let text = all_reduce(&communicator).unwrap_err().to_string();
    assert!(
        text.starts_with("rank 1 of 3: all-reduce failed: code 6 (code 6); last message of NCCL: made 1"),
        "{text}"
    );
}

#[test]
fn an_error_of_another_rank_ends_a_wait_whose_stream_would_never_end() {
    let Some(fake) = Fake::new() else { return };
    let communicator = fake.join(b'w', LONG).unwrap();
    all_reduce(&communicator).unwrap();
    let error = communicator.wait("all-reduce", || Ok(false)).unwrap_err();
    assert!(
        matches!(&error, NcclError::Failed { cause, .. } if cause.code == 6),
        "{error:?}"
    );
}

#[test]
fn a_stream_that_does_not_end_is_given_up_at_the_deadline() {
    let Some(fake) = Fake::new() else { return };
    let mut communicator = fake.join(b'r', LONG).unwrap();
    all_reduce(&communicator).unwrap();
    communicator.timeout = SHORT;
    let error = communicator.wait("all-reduce", || Ok(false)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("rank 1 of 3: all-reduce was not done after "),
        "{error}"
    );
}

#[test]
fn another_thread_aborts_a_wait_and_everything_after_it() {
    let Some(fake) = Fake::new() else { return };
    let communicator = fake.join(b'r', LONG).unwrap();
    all_reduce(&communicator).unwrap();
    let (waits, begun) = channel();
    let handle = communicator.abort_handle();
    let aborting = std::thread::spawn(move || {
        begun.recv().unwrap();
        (handle.abort(), handle.abort())
    });
    let waited = communicator.wait("all-reduce", || {
        // Nobody listens any more after the first time.
        let _ = waits.send(());
        Ok(false)
    });
    assert!(matches!(waited, Err(NcclError::Aborted { .. })), "{waited:?}");
    assert_eq!(aborting.join().unwrap(), (true, false));
    let late = all_reduce(&communicator);
    assert!(matches!(late, Err(NcclError::Aborted { .. })), "{late:?}");
    let left = communicator.finish();
    assert!(matches!(left, Err(NcclError::Aborted { .. })), "{left:?}");
    assert_eq!(fake.calls(), "made 1 aborted 1 finalized 0 destroyed 0");
}

#[test]
fn a_stream_that_an_abort_emptied_is_no_success() {
    let Some(fake) = Fake::new() else { return };
    let communicator = fake.join(b'r', LONG).unwrap();
    all_reduce(&communicator).unwrap();
    let waited = communicator.wait("all-reduce", || Ok(communicator.abort_handle().abort()));
    assert!(matches!(waited, Err(NcclError::Aborted { .. })), "{waited:?}");
}

#[test]
fn ranks_that_remain_go_on_in_a_smaller_communicator() {
    let Some(fake) = Fake::new() else { return };
    let communicator = fake.join(b'd', LONG).unwrap();
    all_reduce(&communicator).unwrap_err();
    let fewer = communicator.shrink(&[0], Unfinished::Abort).unwrap();
    assert_eq!(fewer.place(), Place { rank: 0, world_size: 2 });
    drop(communicator);
    all_reduce(&fewer).unwrap();
    fewer.finish().unwrap();
    assert_eq!(fake.calls(), "made 2 aborted 1 finalized 1 destroyed 1");
}

#[test]
fn ranks_that_cannot_be_left_out_are_refused() {
    let Some(fake) = Fake::new() else { return };
    let communicator = fake.join(b'r', LONG).unwrap();
    for excluded in [&[][..], &[1], &[3], &[0, 0], &[usize::MAX]] {
        let refused = communicator.shrink(excluded, Unfinished::Keep);
        assert!(matches!(refused, Err(NcclError::Argument { .. })), "{refused:?}");
    }
}

#[test]
fn a_library_that_cannot_shrink_says_which_one_can() {
    let Some(fake) = Fake::of_version(22_602) else { return };
    let communicator = fake.join(b'r', LONG).unwrap();
    let error = communicator.shrink(&[0], Unfinished::Abort).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rank 1 of 3: NCCL 2.26.2 cannot shrink a communicator, which needs 2.27 or later"
    );
}

#[test]
fn finishing_waits_for_the_others_and_aborts_nothing() {
    let Some(fake) = Fake::new() else { return };
    let communicator = fake.join(b'r', LONG).unwrap();
    communicator.finish().unwrap();
    assert_eq!(fake.calls(), "made 1 aborted 0 finalized 1 destroyed 1");
    let refused = fake.nccl.unique_id().unwrap_err().to_string();
    assert!(refused.starts_with("getting a unique id failed: code 2"), "{refused}");
}
