//! `pi-client`: asks a server for the classes of images that the server never sees.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
