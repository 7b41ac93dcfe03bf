//! Makes SoftHSM tokens, each in a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::processes::run;
use super::{Directory, PATIENCE, SOFTHSM};

/// A token "e2e" with two PINs, and a free slot beside it.
pub struct Token {
    directory: Directory,
}

impl Token {
    /// The user's PIN.
    pub const PIN: &str = "1234";
    /// The security officer's.
    pub const SO_PIN: &str = "12345678";
    /// The label.
    pub const LABEL: &str = "e2e";

    /// Initialises a new token.
    pub fn new() -> Self {
        let token = Self::around(Directory::new());
        fs::create_dir(token.directory.join("tokens")).expect("a directory in a new directory");
        let mut command = Command::new("softhsm2-util");
        command.args(["--init-token", "--free", "--label", Self::LABEL]);
        command.args(["--pin", Self::PIN, "--so-pin", Self::SO_PIN]);
        token.succeed(command);
        token
    }

    /// A token with the same objects, PINs, serial number and slot id.
    pub fn copy(&self) -> Self {
        Self::around(Directory::copy_of(self.directory.path()))
    }

    /// Makes its objects, PINs, serial number and slot id those of another, as [`Token::copy`]
    /// does. No process may have it open.
    pub fn restore(&self, original: &Self) {
        self.directory.restore("tokens", original.path());
    }

    /// Makes an RSA key pair that stays on the token, with a tool, past everything under test.
    pub fn with_rsa_key(self) -> Self {
        self.with_key(&[
            "--keypairgen",
            "--key-type",
            "rsa:2048",
            "--id",
            "01",
            "--label",
            "e2e-rsa",
        ])
    }

    /// Makes any key, with these options of pkcs11-tool, past everything under test.
    pub fn with_key(self, options: &[&str]) -> Self {
        let mut command = Command::new("pkcs11-tool");
        command.args(["--module", SOFTHSM, "--login", "--pin", Self::PIN]);
        command.args(options);
        self.succeed(command);
        self
    }

    /// Has the module `witness.c` write down what it does with the token.
    pub fn witnessed(self) -> Self {
        for name in ["softhsm2.conf.calls", "softhsm2.conf.lock"] {
            fs::write(self.directory.join(name), "").expect("a file in a new directory");
        }
        self
    }

    /// What `witness.c` has written: a line for each login, and for each signature or decryption that succeeded.
    pub fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.directory.join("softhsm2.conf.calls"));
        let text = text.expect("a witnessed token");
        text.lines().map(str::to_owned).collect()
    }

    /// The value of `SOFTHSM2_CONF`.
    pub fn configuration(&self) -> PathBuf {
        self.directory.join("softhsm2.conf")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn around(directory: Directory) -> Self {
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
            directory.join("tokens").display()
        );
        fs::write(directory.join("softhsm2.conf"), text).expect("a file in a new directory");
        Self { directory }
    }

    fn succeed(&self, mut command: Command) {
        command.env("SOFTHSM2_CONF", self.configuration());
        let outcome = run(command, PATIENCE);
        assert!(
            outcome.status.success(),
            "preparing a token: {} {}",
            outcome.stdout,
            outcome.stderr
        );
    }
}
