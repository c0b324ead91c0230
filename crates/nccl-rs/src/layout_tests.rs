//! Our side of the foreign structures and numbers against the header beside the library.

use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use super::*;

#[path = "../tests/found/mod.rs"]
mod found;

/// What the header says, as one C expression each, and what we say.
fn expectations() -> Vec<(String, i64)> {
    let config = RawConfig::non_blocking();
    let mut pairs: Vec<(String, i64)> = [
        ("NCCL_API_MAGIC", i64::from(config.magic)),
        ("NCCL_VERSION(2, 27, 0)", i64::from(config.version)),
        ("NCCL_CONFIG_UNDEF_INT", i64::from(config.min_ctas)),
        ("NCCL_UNIQUE_ID_BYTES", 128),
        ("sizeof(ncclUniqueId)", 128),
        ("ncclFloat32", i64::from(FLOAT32)),
        ("ncclSum", i64::from(SUM)),
        ("ncclInProgress", 7),
        ("NCCL_SHRINK_DEFAULT", 0),
        ("NCCL_SHRINK_ABORT", 1),
    ]
    .map(|(expression, ours)| (expression.to_owned(), ours))
    .into();
    let offsets = [
        ("size", offset_of!(RawConfig, size)),
        ("magic", offset_of!(RawConfig, magic)),
        ("version", offset_of!(RawConfig, version)),
        ("blocking", offset_of!(RawConfig, blocking)),
        ("cgaClusterSize", offset_of!(RawConfig, cga_cluster_size)),
        ("minCTAs", offset_of!(RawConfig, min_ctas)),
        ("maxCTAs", offset_of!(RawConfig, max_ctas)),
        ("netName", offset_of!(RawConfig, net_name)),
        ("splitShare", offset_of!(RawConfig, split_share)),
        ("trafficClass", offset_of!(RawConfig, traffic_class)),
        ("commName", offset_of!(RawConfig, comm_name)),
        ("collnetEnable", offset_of!(RawConfig, collnet_enable)),
        ("CTAPolicy", offset_of!(RawConfig, cta_policy)),
        ("shrinkShare", offset_of!(RawConfig, shrink_share)),
        ("nvlsCTAs", offset_of!(RawConfig, nvls_ctas)),
    ];
    let offsets = offsets.map(|(field, ours)| (format!("offsetof(ncclConfig_t, {field})"), ours));
    // No padding of ours lies over a later field of theirs.
    let end = [("offsetof(ncclConfig_t, nvlsCTAs) + sizeof(int)".to_owned(), config.size)];
    pairs.extend(offsets.into_iter().chain(end).map(|(text, ours)| (text, ours as i64)));
    pairs
}

/// The header asks for CUDA's, of which it needs these two names only.
fn write_program(folder: &Path, expressions: &[(String, i64)]) {
    let types = "typedef struct CUstream_st *cudaStream_t;\ntypedef struct CUevent_st *cudaEvent_t;\n";
    std::fs::write(folder.join("cuda_runtime.h"), types).unwrap();
    for empty in ["cuda_fp16.h", "cuda_bf16.h"] {
        std::fs::write(folder.join(empty), "").unwrap();
    }
    let mut program = "#include <stddef.h>\n#include <stdio.h>\n#include <nccl.h>\nint main(void) {\n".to_owned();
    for (expression, _) in expressions {
        writeln!(program, "printf(\"%lld\\n\", (long long)({expression}));").unwrap();
    }
    program.push_str("printf(\"%lld\\n\", (long long)sizeof(ncclConfig_t));\nreturn 0;\n}\n");
    std::fs::write(folder.join("layout.c"), program).unwrap();
}

#[test]
fn structures_and_numbers_are_those_of_the_header() {
    let Some(library) = found::nccl() else { return };
    let include = library.parent().unwrap().join("../include");
    if !include.join("nccl.h").exists() {
        return println!("skipped: there is no nccl.h beside {}", library.display());
    }
    if Command::new("cc").arg("--version").output().is_err() {
        return println!("skipped: there is no C compiler");
    }
    let folder = tempfile::tempdir().unwrap();
    let expectations = expectations();
    write_program(folder.path(), &expectations);
    let mut compiler = Command::new("cc");
    compiler.current_dir(&folder).arg("-I.").arg("-I").arg(&include);
    let compiled = compiler.args(["layout.c", "-o", "layout"]).output().unwrap();
    assert!(
        compiled.status.success(),
        "{}",
        String::from_utf8_lossy(&compiled.stderr)
    );
    let printed = Command::new(folder.path().join("layout")).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    let theirs: Vec<i64> = printed.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(theirs.len(), expectations.len() + 1);
    for ((expression, ours), theirs) in expectations.iter().zip(&theirs) {
        assert_eq!(ours, theirs, "{expression}");
    }
    let whole = theirs[expectations.len()];
    assert!(
        whole >= size_of::<RawConfig>() as i64,
        "the header's is shorter: {whole}"
    );
}
