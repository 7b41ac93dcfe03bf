//! Defines what `pkcs11proxyctl` and the controller say to each other over the control socket.
//!
//! A request is one line of JSON, and so is its reply; a connection may have several of both. Times are
//! seconds since 1970 if they say when, and seconds otherwise.

use serde::{Deserialize, Serialize};

/// Upper bound on the bytes of a request.
pub const LONGEST_REQUEST: usize = 4096;

/// What an administrator asks for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Tell who is connected; [`Reply::Status`].
    Status,
    /// Tell the numbers for a monitoring system; [`Reply::Metrics`].
    Metrics,
    /// Do what SIGHUP does.
    Reload,
    /// End the connection of the client with this number.
    Disconnect(usize),
    /// Do what SIGUSR2 does.
    Drain,
    /// Do what SIGTERM does.
    Stop,
    /// Start the program anew, which takes over.
    Upgrade,
    /// Send copies of the listening sockets; [`Reply::HandingOver`]. A daemon that starts asks this.
    HandOver,
    /// Accept nobody any more, because the daemon that asked for the sockets does; serve the clients until
    /// they leave.
    HandedOver,
}

impl Request {
    /// Whether nothing is changed by it, so that it needs no line in the log.
    pub fn only_looks(&self) -> bool {
        matches!(self, Request::Status | Request::Metrics)
    }
}

/// What the controller answers.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// It is done.
    Done,
    /// It is not done, for this reason.
    Failed(String),
    /// The answer to [`Request::Status`].
    Status(Status),
    /// The answer to [`Request::Metrics`], in Prometheus' text format.
    Metrics(String),
    /// This many sockets follow, each with a byte of its own.
    HandingOver(usize),
}

/// The state of the daemon.
#[derive(Debug, Deserialize, Serialize)]
pub struct Status {
    /// The version of the program.
    pub version: String,
    /// The controller's process id.
    pub pid: u32,
    /// When it started.
    pub since: u64,
    /// Whether it accepts nobody any more.
    pub drains: bool,
    /// In the order of the configuration.
    pub services: Vec<ServiceStatus>,
}

/// The state of a service.
#[derive(Debug, Deserialize, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Its workers, idle ones too.
    pub workers: usize,
    /// How many workers it may have.
    pub max_workers: usize,
    /// Workers that wait for a client.
    pub idle: usize,
    /// By their numbers.
    pub clients: Vec<ClientStatus>,
}

/// A client.
#[derive(Debug, Deserialize, Serialize)]
pub struct ClientStatus {
    /// The number of its worker. No other has it as long as the daemon runs.
    pub id: usize,
    /// The process id of its worker.
    pub pid: i32,
    /// Its address, or its user and process.
    pub peer: String,
    /// The subject of its certificate, or the identity of its pre-shared key; empty without TLS and
    /// before the handshake is over.
    pub user: String,
    /// When it connected.
    pub since: u64,
    /// The alias of the module it has loaded; empty before that.
    pub module: String,
    /// Its calls so far, those in flight too.
    pub calls: u64,
    /// Calls that are being executed.
    pub in_flight: u64,
    /// The function of its last call; empty before that.
    pub last_call: String,
    /// How long ago that began.
    pub idle: f64,
}

/// Writes a request or a reply as the line that is sent.
pub fn line(message: &impl Serialize) -> Vec<u8> {
    // Fails for maps with strange keys only; there are none.
    let mut bytes = serde_json::to_vec(message).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_lines_that_are_read_exactly() {
        for (request, text) in [
            (Request::Status, "\"status\"\n"),
            (Request::Disconnect(7), "{\"disconnect\":7}\n"),
        ] {
            assert_eq!(line(&request), text.as_bytes());
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
        for text in ["\"shutdown\"", "{\"disconnect\":-1}", "{\"status\":1}", ""] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }
}
