//! Signs the lines that clients send with an RSA key of a PKCS#11 token, in a thread and a session for each client.
//!
//! Answers the signature in hexadecimal, or "error". Arguments: the PKCS#11 library, the token's label, the PIN, the
//! port.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, library, label, pin, port] = arguments.as_slice() else {
        return Err("arguments: LIBRARY LABEL PIN PORT".into());
    };
    let pkcs11 = Pkcs11::new(library)?;
    pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let mut slots = pkcs11.get_slots_with_initialized_token()?.into_iter();
    let slot = slots
        .find(|slot| {
            pkcs11
                .get_token_info(*slot)
                .is_ok_and(|token| token.label() == label)
        })
        .ok_or("no such token")?;
    // All sessions have its login.
    let first = pkcs11.open_ro_session(slot)?;
    first.login(UserType::User, Some(&AuthPin::new(pin.clone().into())))?;
    let key = find(&first)?;
    let listener = TcpListener::bind(("127.0.0.1", port.parse()?))?;
    for client in listener.incoming() {
        let (client, pkcs11) = (client?, pkcs11.clone());
        std::thread::spawn(move || {
            if let Err(error) = serve(&client, &pkcs11, slot, key) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

fn find(session: &Session) -> Outcome<ObjectHandle> {
    let template = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Label(b"rsa".to_vec()),
    ];
    let found = session.find_objects(&template)?;
    Ok(*found.first().ok_or("no such key")?)
}

fn serve(
    mut client: &TcpStream,
    pkcs11: &Pkcs11,
    slot: cryptoki::slot::Slot,
    key: ObjectHandle,
) -> Outcome<()> {
    let session = pkcs11.open_ro_session(slot)?;
    for line in BufReader::new(client).lines() {
        let answer = match session.sign(&Mechanism::Sha256RsaPkcs, key, line?.as_bytes()) {
            Ok(signature) => signature.iter().map(|byte| format!("{byte:02x}")).collect(),
            Err(error) => {
                eprintln!("{error}");
                "error".to_owned()
            }
        };
        client.write_all(format!("{answer}\n").as_bytes())?;
    }
    Ok(())
}
