//! Defines the reasons why a call has no result, and the CK_RV for each.

use std::collections::TryReserveError;
use std::io;

use xdr::CkRv;
use xdr::codec::{DecodeError, EncodeError};
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
    #[error("the call is longer than the daemon accepts")]
    TooLong,
    #[error("{0}")]
    Reply(#[from] ReplyError),
    #[error("the connection was lost earlier")]
    Lost,
    #[error("C_Finalize was called")]
    Finalized,
    #[error("the daemon sent a notification before the last one was answered")]
    Notification,
    #[error(
        "calls of other threads are in progress; C_Finalize ends them without waiting for the module"
    )]
    OthersAreOut,
    #[error("the application's callback made a call that would wait for the callback itself")]
    CallingBack,
}

impl Failure {
    /// Returns the CK_RV for the application.
    pub fn rv(&self) -> CkRv {
        match self {
            // Nothing was sent.
            Failure::Encode(_) => CkRv::HOST_MEMORY,
            Failure::TooLong => CkRv::DATA_LEN_RANGE,
            // The daemon works and executed nothing. The connection stays open, as in the original.
            Failure::Reply(ReplyError::NotExecuted(_) | ReplyError::Denied(_))
            | Failure::CallingBack => CkRv::FUNCTION_FAILED,
            // The reply has arrived, but there is no memory for its contents.
            Failure::Reply(ReplyError::Malformed(DecodeError::Memory)) | Failure::Memory(_) => {
                CkRv::HOST_MEMORY
            }
            Failure::Finalized => CkRv::CRYPTOKI_NOT_INITIALIZED,
            // The connection ends, and with it everything that the module had for this application.
            Failure::OthersAreOut => CkRv::OK,
            Failure::Socket(_)
            | Failure::Timeout
            | Failure::Closed
            | Failure::Record(_)
            | Failure::Reply(ReplyError::Malformed(_))
            | Failure::Notification
            | Failure::Lost => CkRv::DEVICE_ERROR,
        }
    }

    /// Returns whether a later reply could be taken for that of another call, so that the connection must be closed.
    pub fn is_fatal(&self) -> bool {
        match self {
            Failure::Encode(_)
            | Failure::TooLong
            | Failure::Reply(
                ReplyError::NotExecuted(_)
                | ReplyError::Denied(_)
                | ReplyError::Malformed(DecodeError::Memory),
            )
            | Failure::CallingBack
            | Failure::OthersAreOut
            | Failure::Finalized => false,
            Failure::Socket(_)
            | Failure::Timeout
            | Failure::Closed
            | Failure::Record(_)
            | Failure::Memory(_)
            | Failure::Reply(ReplyError::Malformed(_))
            | Failure::Notification
            | Failure::Lost => true,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::TimedOut => Failure::Timeout,
            io::ErrorKind::WriteZero | io::ErrorKind::UnexpectedEof => Failure::Closed,
            _ => Failure::Socket(error),
        }
    }
}
