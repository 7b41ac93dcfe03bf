//! Says why a call has no result.

use std::collections::TryReserveError;
use std::io;

use transport::tls::StreamError;
use xdr::codec::EncodeError;
use xdr::record::TooLong;
use xdr::rpc::ReplyError;

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Socket(io::Error),
    #[error("no reply in time")]
    Timeout,
    #[error("the daemon closed the connection")]
    Closed,
    #[error("{0}")]
    Record(#[from] TooLong),
    #[error("{0}")]
    Memory(#[from] TryReserveError),
    #[error("{0}")]
    Encode(#[from] EncodeError),
    #[error("{0}")]
    Reply(#[from] ReplyError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::TimedOut => Failure::Timeout,
            io::ErrorKind::WriteZero => Failure::Closed,
            _ => Failure::Socket(error),
        }
    }
}

/// What OpenSSL has to say is told without its source files and lines.
impl From<StreamError> for Failure {
    fn from(error: StreamError) -> Failure {
        let error = match error {
            StreamError::Socket(error) => return error.into(),
            StreamError::Tls(error) => error,
        };
        let Some(stack) = error.ssl_error() else {
            return Failure::Closed;
        };
        let reason = stack.errors().iter().find_map(|error| error.reason());
        Failure::Socket(io::Error::other(reason.unwrap_or("TLS failed").to_owned()))
    }
}
