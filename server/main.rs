//! `pkcs11proxyd`: calls the library and exits with the status it returns.

fn main() {
    std::process::exit(server::run(std::env::args_os()))
}
