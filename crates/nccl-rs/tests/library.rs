//! The real library, on machines with and without a card.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nccl_rs::cuda::{Cuda, CudaError};
use nccl_rs::{Communicator, Nccl, NcclError, OpenError, Place, UniqueId, Version};

mod found;

const TIMEOUT: Duration = Duration::from_secs(60);

fn nccl() -> Option<Nccl> {
    found::nccl().map(|path| Nccl::open_at(&path).expect("every function is there"))
}

/// The error and what it came from, as the command line prints it.
fn chain(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[test]
fn the_library_opens_with_all_functions_and_tells_its_version() {
    let Some(nccl) = nccl() else { return };
    let version = nccl.version().unwrap();
    let first = Version {
        major: 2,
        minor: 18,
        patch: 0,
    };
    assert!(version >= first, "{version}");
    let shrinks = Version { minor: 27, ..first };
    assert_eq!(nccl.can_shrink(), version >= shrinks, "{version}");
}

#[test]
fn unique_ids_differ_and_travel_as_bytes() {
    let Some(nccl) = nccl() else { return };
    let (one, other) = (nccl.unique_id().unwrap(), nccl.unique_id().unwrap());
    assert_ne!(one, other);
    assert_ne!(one.as_bytes(), &[0; 128]);
    assert_eq!(UniqueId::from_bytes(*one.as_bytes()), one);
}

#[test]
fn each_result_code_has_a_text_of_its_own() {
    let Some(nccl) = nccl() else { return };
    let mut texts: Vec<String> = (0..8).map(|code| nccl.error_text(code)).collect();
    assert_eq!(texts[0], "no error");
    assert!(texts[6].contains("remote process"), "{}", texts[6]);
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), 8, "{texts:?}");
    assert!(!nccl.error_text(-5).is_empty());
}

#[test]
fn joining_without_a_card_fails_with_rank_operation_and_cause() {
    let Some(nccl) = nccl() else { return };
    let cards = found::cuda().and_then(|path| Cuda::open_at(&path).ok()?.device_count().ok());
    if cards.is_some() {
        return println!("skipped: this machine has a card");
    }
    let id = nccl.unique_id().unwrap();
    let place = Place { rank: 1, world_size: 2 };
    let error = Communicator::join(nccl, place, &id, TIMEOUT).unwrap_err();
    let NcclError::Failed { place: who, cause, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!((*who, cause.code), (place, 1));
    assert!(cause.last_message.contains("CUDA driver"), "{cause:?}");
    let text = error.to_string();
    assert!(
        text.starts_with("rank 1 of 2: joining the communicator failed: unhandled cuda error"),
        "{text}"
    );
    assert!(text.contains("last message of NCCL: Cuda failure"), "{text}");
    // The library goes on.
    assert_ne!(nccl.unique_id().unwrap(), id);
}

#[test]
fn a_rank_beyond_the_number_of_ranks_is_refused_before_the_library_is_asked() {
    let Some(nccl) = nccl() else { return };
    for (rank, world_size) in [(2, 2), (0, 0), (usize::MAX, 2), (0, usize::MAX)] {
        let place = Place { rank, world_size };
        let refused = Communicator::begin(nccl, place, &UniqueId::from_bytes([0; 128]), TIMEOUT);
        assert!(
            matches!(&refused, Err(NcclError::Argument { place: who, .. }) if *who == place),
            "{refused:?}"
        );
    }
}

#[test]
fn a_library_that_is_not_there_is_named() {
    let error = Nccl::open_at("/nowhere/libnccl.so.2").unwrap_err();
    assert!(matches!(error, OpenError::Open { .. }), "{error:?}");
    let text = chain(&error);
    assert!(
        text.starts_with("cannot open the library /nowhere/libnccl.so.2: "),
        "{text}"
    );
    assert!(text.contains("No such file"), "{text}");
}

#[test]
fn a_file_that_is_no_library_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libnccl.so.2");
    std::fs::write(&path, "not a library").unwrap();
    let error = Nccl::open_at(&path).unwrap_err();
    let text = chain(&error);
    assert!(matches!(error, OpenError::Open { .. }), "{text}");
    assert!(text.contains(&*path.to_string_lossy()), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_that_is_not_nccl_is_named_with_what_it_lacks() {
    let error = Nccl::open_at("libc.so.6").unwrap_err();
    assert!(matches!(error, OpenError::Symbol { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "the library libc.so.6 has no function ncclGetVersion"
    );
    let error = Cuda::open_at("libc.so.6").unwrap_err();
    assert!(matches!(error, OpenError::Symbol { .. }), "{error:?}");
}

/// Opens the library as a program does. A process of its own: the environment is the process's.
fn opened_with(variable: &Path) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "opens_what_the_environment_names", "--nocapture"]);
    child.env("STILLHOUSE_NCCL", variable).env("STILLHOUSE_TEST_OPEN", "1");
    let output = child.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn opens_what_the_environment_names() {
    if std::env::var_os("STILLHOUSE_TEST_OPEN").is_some() {
        return match Nccl::open() {
            Ok(nccl) => println!("version {}", nccl.version().unwrap()),
            Err(error) => println!("refused: {}", chain(&error)),
        };
    }
    let refused = opened_with(Path::new("/nowhere/libnccl.so.2"));
    assert!(
        refused.contains("refused: cannot open the library /nowhere/libnccl.so.2"),
        "{refused}"
    );
    let Some(path) = found::nccl() else { return };
    let opened = opened_with(&path);
    assert!(opened.contains("version 2."), "{opened}");
}

#[test]
fn the_cuda_runtime_counts_cards_or_says_why_it_cannot() {
    let Some(path) = found::cuda() else { return };
    let cuda = Cuda::open_at(&path).unwrap();
    match cuda.device_count() {
        Ok(cards) => assert!(cards > 0),
        Err(error) => {
            let CudaError::Failed { operation, code, text } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(*operation, "counting devices");
            assert!(*code > 0 && text.len() > 5, "{error}");
            let refused = cuda.set_device(0).unwrap_err().to_string();
            assert!(refused.starts_with("choosing the device failed: "), "{refused}");
            assert!(cuda.floats(4).is_err() && cuda.stream().is_err());
        }
    }
}
