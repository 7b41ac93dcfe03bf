//! Text of clients, such as labels and certificates' subjects, cannot make a line or a member of the log.

use super::*;

#[test]
fn text_of_clients_stays_in_its_member_of_its_line() {
    let token = Token::new();
    let mut audited = Audited::start(setup(&token), "");
    let evil =
        "x\",\"result\":\"CKR_OK\"}\n{\"seq\":1,\"event\":\"end\"}\r\u{1b}[2J\u{9b}1m\u{202e}\\";
    let mut client = ready4(&audited.daemon);
    for bytes in [
        evil.as_bytes(),
        b"\xff\xfe\n\"",
        "gr\u{fc}n \"7\"".as_bytes(),
    ] {
        let label = Attribute::new(AttributeType(3), bytes.to_vec());
        let id = Attribute::new(AttributeType(0x102), b"\n\"".to_vec());
        let template = Some(Template(vec![label, id]));
        client.call(Call4::C_FindObjectsInit(SESSION, template));
        client.call(Call4::C_FindObjectsFinal(SESSION));
    }
    let mut other = Client::new(&audited.daemon);
    other.call(Call::C_SetupArch(Architecture::host()));
    other.call(Call::C_LoadModule(evil.as_bytes()));
    drop((client, other));
    audited.end(&["audit.log"]);
    let text = std::fs::read(audited.file()).expect("a log");
    assert!(
        text.iter()
            .all(|byte| *byte == b'\n' || *byte >= b' ' && *byte != 0x7f)
    );
    assert!(!String::from_utf8_lossy(&text).contains(['\u{9b}', '\u{202e}']));
    let searches = audited.calls("C_FindObjectsInit");
    let labels: Vec<&str> = searches
        .iter()
        .filter_map(|call| call["objects"][0]["label"].as_str())
        .collect();
    assert!(
        labels[0].starts_with("x\",\"result\":\"CKR_OK\"}\\x0a{"),
        "{labels:?}"
    );
    assert!(labels[0].ends_with("\\x5c"), "{labels:?}");
    assert_eq!(labels[1..], ["\\xff\\xfe\\x0a\"", "gr\u{fc}n \"7\""]);
    assert_eq!(searches[0]["objects"][0]["id"], "0a22");
    let loads = audited.calls("C_LoadModule");
    assert!(
        loads
            .iter()
            .any(|call| call["result"] == "CKR_GENERAL_ERROR")
    );
}

/// Makes a client's certificate with this common name, by the authority of the tests.
fn client_certificate(name: &str) -> (openssl::x509::X509, PKey<Private>) {
    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::x509::extension::ExtendedKeyUsage;
    use openssl::x509::{X509Builder, X509Name};

    let authority = std::fs::read(certificate("ca.pem")).expect("a certificate");
    let authority = openssl::x509::X509::from_pem(&authority).expect("PEM");
    let signer = std::fs::read(certificate("ca.key")).expect("a key");
    let signer = PKey::private_key_from_pem(&signer).expect("PEM");
    let key = PKey::from_rsa(openssl::rsa::Rsa::generate(3072).expect("a key")).expect("a key");
    let mut subject = X509Name::builder().expect("a name");
    subject.append_entry_by_text("CN", name).expect("a name");
    let mut built = X509Builder::new().expect("a certificate");
    built.set_version(2).expect("version 3");
    built.set_subject_name(&subject.build()).expect("a subject");
    built
        .set_issuer_name(authority.subject_name())
        .expect("an issuer");
    built.set_pubkey(&key).expect("a key");
    let serial = openssl::bn::BigNum::from_u32(4711).and_then(|number| number.to_asn1_integer());
    built
        .set_serial_number(&serial.expect("a number"))
        .expect("a number");
    let day = |days| Asn1Time::days_from_now(days).expect("a time");
    built.set_not_before(&day(0)).expect("a time");
    built.set_not_after(&day(1)).expect("a time");
    let usage = ExtendedKeyUsage::new()
        .client_auth()
        .build()
        .expect("an extension");
    built.append_extension(usage).expect("an extension");
    built
        .sign(&signer, MessageDigest::sha256())
        .expect("signed");
    (built.build(), key)
}

#[test]
fn a_subject_with_quotes_and_newlines_stays_in_its_member() {
    use openssl::ssl::{SslConnector, SslMethod};

    let token = Token::new();
    let mut setup = setup(&token);
    setup.use_ssl = true;
    setup.processor = format!(
        "tls {{ peer_auth = \"required\"; x509 {{ key {{ crt_file = \"{}\"; key_file = \"{}\" }};
           trust {{ crt_file = \"{}\" }} }} }};",
        certificate("server.pem"),
        certificate("server.key"),
        certificate("ca.pem"),
    );
    let mut audited = Audited::start(setup, "");
    let (own, key) = client_certificate("x\",\"user\":\"root\"}\n{\"seq\":1}\r\u{1b}[2J");
    let mut connector = SslConnector::builder(SslMethod::tls()).expect("a context");
    connector
        .set_ca_file(certificate("ca.pem"))
        .expect("authorities");
    connector.set_certificate(&own).expect("a certificate");
    connector.set_private_key(&key).expect("its key");
    let stream = TcpStream::connect(audited.daemon.address()).expect("it accepts");
    let connector = connector.build();
    let mut stream = connector.connect("localhost", stream).expect("a handshake");
    for call in [
        Call::C_SetupArch(Architecture::host()),
        Call::C_LoadModule(b"null"),
        Call::C_Initialize(),
        Call::C_GetInfo(),
    ] {
        stream.write_all(&encoded(&call)).expect("it reads");
        let mut mark = [0; 4];
        stream.read_exact(&mut mark).expect("a reply");
        let mut record = vec![0; (u32::from_be_bytes(mark) & 0x7fff_ffff) as usize];
        stream.read_exact(&mut record).expect("a reply");
    }
    drop(stream);
    audited.end(&["audit.log"]);
    let loads = audited.calls("C_LoadModule");
    assert_eq!(loads.len(), 1, "from its first call on");
    for call in [&loads[0], &audited.calls("C_GetInfo")[0]] {
        let user = call["user"].as_str().expect("a user");
        assert!(user.contains("user") && user.contains("seq"), "{user}");
        assert!(!user.contains(char::is_control), "{user}");
    }
    assert!(!audited.lines().iter().any(|line| line["user"] == "root"));
}
