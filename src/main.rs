//! The command line program. Everything is in the library.

fn main() -> std::process::ExitCode {
    archiver::app::run(std::env::args_os()).into()
}
