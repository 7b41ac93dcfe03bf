//! `pkcs11proxyctl`: calls the library and exits with the status it returns.

fn main() {
    std::process::exit(server::ctl::run(std::env::args_os()))
}
