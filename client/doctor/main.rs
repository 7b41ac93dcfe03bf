//! `p11client-doctor`: calls the library and exits with the status it returns.

fn main() {
    std::process::exit(p11client::doctor::run(std::env::args_os()))
}
