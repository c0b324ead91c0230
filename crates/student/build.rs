//! Compiles the C++ shim against libtorch's headers, and lets this crate's own tests find the
//! libraries at run time.

use std::path::PathBuf;

/// What tch leaves out, and a faster pooling.
const SOURCES: [&str; 2] = ["src/shim.cpp", "src/pool.cpp"];

fn main() {
    for source in SOURCES {
        println!("cargo:rerun-if-changed={source}");
    }
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    // torch-sys hands its library folder to crates that depend on it directly.
    let libraries = std::env::var_os("DEP_TCH_LIBTORCH_LIB")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("LIBTORCH").map(|root| PathBuf::from(root).join("lib")))
        .expect("LIBTORCH names the folder of libtorch (`make libtorch` installs it)");
    let root = libraries.parent().expect("libraries lie in a folder of libtorch");
    let libraries = libraries.canonicalize().unwrap_or_else(|_| libraries.clone());
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(root.join("include"))
        .include(root.join("include/torch/csrc/api/include"))
        .files(SOURCES)
        .compile("stillhouse_shim");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libraries.display());
    // Dependents (the worker) add the same rpath from DEP_STILLHOUSE_STUDENT_LIBRARIES.
    println!("cargo:libraries={}", libraries.display());
}
