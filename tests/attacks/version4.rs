//! Converts a call of version 3 to version 4, where room has a size and a PIN is NULL or is not.

use xdr::record::MARK_SIZE;
use xdr::rpc::{self, Xid};
use xdr::{Architecture, Call, Input, Room, WantedRoom};

/// Room for whatever an attack gets.
const ENOUGH: Room = Room::Buffer(1 << 16);

/// The record of a call of version 3.
pub fn record(call: &xdr::version3::Call<'_>) -> Vec<u8> {
    let mut buffer = Vec::new();
    let record = rpc::write_call(Xid(1), call, false, &mut buffer);
    record.expect("small").to_vec()
}

/// The call in such a record, which a client of this host sent.
pub fn call(record: &[u8]) -> Call<'_> {
    let peer = rpc::Peer {
        architecture: Architecture::host(),
        versions: 3..=3,
    };
    let mut call = match rpc::read_request(&record[MARK_SIZE..], &peer) {
        rpc::Request::Call(incoming) => incoming.call,
        other => panic!("{other:?}"),
    };
    match &mut call {
        Call::C_WrapKey(.., room)
        | Call::C_Encrypt(.., room)
        | Call::C_EncryptUpdate(.., room)
        | Call::C_EncryptFinal(.., room)
        | Call::C_Decrypt(.., room)
        | Call::C_DecryptUpdate(.., room)
        | Call::C_DecryptFinal(.., room)
        | Call::C_Digest(.., room)
        | Call::C_DigestFinal(.., room)
        | Call::C_Sign(.., room)
        | Call::C_SignFinal(.., room)
        | Call::C_SignRecover(.., room)
        | Call::C_VerifyRecover(.., room)
        | Call::C_GetOperationState(.., room)
        | Call::C_DigestEncryptUpdate(.., room)
        | Call::C_DecryptDigestUpdate(.., room)
        | Call::C_SignEncryptUpdate(.., room)
        | Call::C_DecryptVerifyUpdate(.., room) => *room = ENOUGH,
        Call::C_Login(.., pin) | Call::C_InitPIN(.., pin) | Call::C_InitToken(_, pin, _) => {
            null(pin);
        }
        Call::C_SetPIN(_, old, new) => {
            null(old);
            null(new);
        }
        Call::C_GetAttributeValue(.., Some(query)) => {
            for wanted in &mut query.0 {
                if let WantedRoom::Buffer { content, .. } = &mut wanted.room {
                    *content = None;
                }
            }
        }
        _ => {}
    }
    call
}

fn null(pin: &mut Input<'_>) {
    if *pin == Input::NullOrEmpty {
        *pin = Input::NULL;
    }
}
