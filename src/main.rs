//! The `corelane` command (provisional: run only).
use std::path::Path;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let environment = corelane::config::Environment::of_process().unwrap();
    match corelane::config::load(Path::new(&args[3]), &environment) {
        Ok(loaded) => {
            if let Err(e) = corelane::run::run(loaded.config) {
                eprintln!("{e}");
                std::process::exit(2)
            }
        }
        Err(e) => {
            eprintln!("{e}");
            std::process::exit(1)
        }
    }
}
