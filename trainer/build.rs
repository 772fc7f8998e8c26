//! Says early and plainly when libtorch is missing, and links the binaries with its folder.
//!
//! `torch-sys` is built without its download feature, so nothing is fetched behind the user's back.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    match std::env::var("LIBTORCH") {
        Ok(dir)
            if std::path::Path::new(&dir)
                .join("lib/libtorch_cpu.so")
                .is_file() =>
        {
            println!("cargo:rustc-link-arg=-Wl,-rpath,{dir}/lib");
            // Nothing refers to the half for GPUs by name, so that a linker would leave it out.
            if std::path::Path::new(&dir)
                .join("lib/libtorch_cuda.so")
                .is_file()
            {
                println!("cargo:rustc-link-arg=-Wl,--no-as-needed");
                println!("cargo:rustc-link-arg=-L{dir}/lib");
                println!("cargo:rustc-link-arg=-ltorch_cuda");
                println!("cargo:rustc-link-arg=-Wl,--as-needed");
            }
        }
        Ok(dir) => fail(&format!("LIBTORCH={dir} holds no lib/libtorch_cpu.so")),
        Err(_) => fail("LIBTORCH is not set"),
    }
}

fn fail(what: &str) {
    eprintln!(
        "error: pi-trainer needs libtorch 2.11.0: {what}.\n\
         `cargo xtask trainer --help` downloads it once (530 MB) and builds with it;\n\
         or set LIBTORCH to the folder that holds include/ and lib/ of libtorch 2.11.0."
    );
    std::process::exit(1);
}
