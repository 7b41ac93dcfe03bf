//! Starts other PKCS#11 proxies for the benchmarks: p11-kit's server, if it is installed, and pkcs11-proxy, if
//! PKCS11_PROXY names a directory with its `pkcs11-daemon` and `libpkcs11-proxy.so`.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::support::{Directory, compile, processes::wait_until};

/// A server with the null module, which ends when this is dropped.
pub struct Other {
    pub name: &'static str,
    /// As `Transport::name` has it.
    pub transport: &'static str,
    /// The library of its client.
    pub library: PathBuf,
    /// What its client needs in its environment.
    pub environment: Vec<(String, String)>,
    server: Child,
    _directory: Directory,
}

impl Other {
    /// Those that are there, each with the null module. `module` is added to the module's environment.
    pub fn all(module: Option<&(String, String)>) -> Vec<Other> {
        [p11_kit(module), pkcs11_proxy(module)]
            .into_iter()
            .flatten()
            .collect()
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.server.id()
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// p11-kit's server on a Unix socket, the only transport of its own.
fn p11_kit(module: Option<&(String, String)>) -> Option<Other> {
    let configuration = Command::new("pkg-config")
        .args(["--variable=p11_module_path", "p11-kit-1"])
        .output();
    let directory = configuration
        .ok()
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .filter(|path| !path.is_empty())
        .unwrap_or_else(|| "/usr/lib/x86_64-linux-gnu/pkcs11".to_owned());
    let library = Path::new(&directory).join("p11-kit-client.so");
    if !library.exists() {
        return None;
    }
    let directory = Directory::new();
    let socket = directory.join("socket");
    let server = Command::new("p11-kit")
        .args(["server", "-f", "--name"])
        .arg(&socket)
        .arg("--provider")
        .arg(compile::module("nullmodule"))
        .arg("pkcs11:")
        .envs(module.cloned())
        .stdout(Stdio::null())
        .spawn()
        .ok()?;
    wait_until(Duration::from_secs(5), || socket.exists());
    let address = format!("unix:path={}", socket.display());
    Some(Other {
        name: "p11-kit",
        transport: "Unix",
        library,
        environment: vec![("P11_KIT_SERVER_ADDRESS".to_owned(), address)],
        server,
        _directory: directory,
    })
}

/// pkcs11-proxy over TCP, without TLS.
fn pkcs11_proxy(module: Option<&(String, String)>) -> Option<Other> {
    let built = std::env::var_os("PKCS11_PROXY").filter(|built| !built.is_empty())?;
    let built = PathBuf::from(built);
    let address = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?;
    let server = Command::new(built.join("pkcs11-daemon"))
        .arg(compile::module("nullmodule"))
        .env("PKCS11_DAEMON_SOCKET", format!("tcp://{address}"))
        .envs(module.cloned())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    wait_until(Duration::from_secs(5), || {
        TcpStream::connect(address).is_ok()
    });
    Some(Other {
        name: "pkcs11-proxy",
        transport: "TCP",
        library: built.join("libpkcs11-proxy.so"),
        environment: vec![("PKCS11_PROXY_SOCKET".to_owned(), format!("tcp://{address}"))],
        server,
        _directory: Directory::new(),
    })
}
