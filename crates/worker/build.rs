//! Lets the program find libtorch where it was built against it.

fn main() {
    if let Some(libraries) = std::env::var_os("DEP_STILLHOUSE_STUDENT_LIBRARIES") {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", libraries.to_string_lossy());
    }
    println!("cargo:rerun-if-changed=build.rs");
}
