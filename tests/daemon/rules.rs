//! Tests filter files: what `-check` prints, and the strict rules in front of SoftHSM.

use crate::*;

/// What `-check` tells for a filter file, in a directory of its own: status, output, errors.
fn checked(filter: &str, processor: &str) -> (Option<i32>, String, String) {
    let directory = Directory::new();
    std::fs::write(directory.join("filter.conf"), filter).expect("a file");
    let address = format!(
        "type = \"local\"; path = \"{}\"",
        directory.join("s").display()
    );
    let conf = configuration(&address, processor);
    let output = refused(&directory, &conf, &["-check"]);
    assert!(!directory.join("s").exists(), "-check opened a socket");
    let text = |bytes: Vec<u8>| {
        let text = String::from_utf8(bytes).expect("UTF-8");
        text.replace(&format!("{}/", directory.path().display()), "")
    };
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn check_tells_what_applies_to_each_module_and_starts_nothing() {
    let null = module("nullmodule");
    let modules = format!(
        "modules = [(\"a\", \"{0}\"), (\"b\", \"{0}\")]",
        null.display()
    );
    let filter = format!("{modules}\nforbidden_functions = [(a, [C_Sign])]\ndebug = 7");
    let (status, output, errors) = checked(
        &filter,
        "sandbox { preset = \"none\" }; compatibility = \"admin-login-only\"",
    );
    let expected = format!(
        "warning: filter.conf:3: debug: expected 3 or less; using 3
service s: filter.conf
  compatibility admin-login-only: forbid_admin_operations allows C_InitToken and C_InitPIN
  sandbox: preset none
  filter.conf:1: modules: 'a' -> '{0}'
    filter.conf:2: forbidden_functions: C_Sign is refused
    filter.conf:2: forbidden_functions: C_SignMessage is refused
  filter.conf:1: modules: 'b' -> '{0}'
    no rule: all calls pass
",
        null.display()
    );
    assert_eq!(
        (status, output.as_str(), errors.as_str()),
        (Some(0), expected.as_str(), "")
    );

    for (filter, processor, expected) in [
        (
            "modules = [(a, \"/nonexistent\")]",
            "",
            "filter.conf:1: modules: /nonexistent: ",
        ),
        (
            "modules = [(a, \"/tmp/\")]",
            "",
            "filter.conf:1: modules: /tmp/: expected a library file",
        ),
        (
            "modules = [(a, b)]\nx = 1",
            "",
            "filter.conf:2: x: unknown option",
        ),
        (
            &modules,
            "compatibility = \"x\"",
            "d.conf:2: netplex.service[0].processor.compatibility: unknown switch `x`",
        ),
    ] {
        let (status, _, errors) = checked(filter, processor);
        assert_eq!(status, Some(2), "{filter} {processor}");
        assert!(errors.contains(expected), "{errors}");
    }
}

/// The rules of etc/filter-strict.conf, with a key.
fn strict() -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/etc/filter-strict.conf");
    let text = std::fs::read_to_string(file).expect("our own file");
    let (_, rules) = text
        .split_once("\ndebug = 1\n")
        .expect("behind the modules");
    format!("debug = 1\n{rules}\nwrapping_format_key = \"0f1e2d3c4b5a69788796a5b4c3d2e1f0\"")
}

#[test]
fn the_strict_rules_leave_a_token_of_use() {
    use xdr::version3::{Attribute, Mechanism, Template};
    use xdr::{AttributeType, MechanismType, ObjectHandle};

    let token = Token::new();
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, &token);
    setup.filter = strict();
    let daemon = setup.start();
    let mut client = Client::new(&daemon);
    let mechanism =
        |kind, parameter: &[u8]| Mechanism::unread(MechanismType(kind), parameter.to_vec());
    let template = |attributes: &[(u64, &[u8])]| {
        let make =
            |(kind, value): &(u64, &[u8])| Attribute::new(AttributeType(*kind), value.to_vec());
        Template(attributes.iter().map(make).collect())
    };
    let data = |reply: Reply| match reply {
        Reply::C_Encrypt(result)
        | Reply::C_Decrypt(result)
        | Reply::C_Sign(result)
        | Reply::C_WrapKey(result) => {
            assert!(result.rv.is_ok(), "{}", result.rv);
            result.data
        }
        other => panic!("{other:?}"),
    };
    client.call(Call::C_SetupArch(Architecture::host()));
    assert_eq!(client.call(Call::C_LoadModule(b"softhsm")).rv().0, 0);
    assert_eq!(client.call(Call::C_Initialize()).rv().0, 0);
    let Reply::C_GetSlotList(slots) =
        client.call(Call::C_GetSlotList(xdr::Ulong(1), xdr::Count(9)))
    else {
        panic!("another reply");
    };
    let slot = slots.slots[0];
    client.call(Call::C_OpenSession(slot, Flags(6)));
    let so = Call::C_Login(SESSION, xdr::UserType(0), Token::SO_PIN.as_bytes());
    assert_eq!(client.call(so).rv().0, 0x103);
    let erase = Call::C_InitToken(slot, Token::SO_PIN.as_bytes(), b"gone");
    assert_eq!(client.call(erase).rv().0, 0x54);
    let user = Call::C_Login(SESSION, xdr::UserType(1), Token::PIN.as_bytes());
    assert_eq!(client.call(user).rv().0, 0);

    let mut key = |roles: &[u64]| {
        let length = 16_u64.to_ne_bytes();
        let mut attributes = vec![(0x1, [0].as_slice()), (0x161, &length)];
        attributes.extend(roles.iter().map(|role| (*role, [1].as_slice())));
        let call = Call::C_GenerateKey(SESSION, mechanism(0x1080, &[]), template(&attributes));
        match client.call(call) {
            Reply::C_GenerateKey(made) => (made.rv.0, made.object),
            other => panic!("{other:?}"),
        }
    };
    let (rv, cipher) = key(&[0x104, 0x105, 0x162]);
    assert_eq!(rv, 0);
    let (rv, wrapping) = key(&[0x106, 0x107]);
    assert_eq!(rv, 0);
    // To wrap and to decrypt is to read.
    assert_eq!(key(&[0x106, 0x105]).0, 0x13);

    let cbc = || mechanism(0x1082, &[7; 16]);
    assert_eq!(
        client
            .call(Call::C_EncryptInit(SESSION, cbc(), cipher))
            .rv()
            .0,
        0
    );
    let secret = data(client.call(Call::C_Encrypt(SESSION, &[5; 32])));
    assert_eq!(
        client
            .call(Call::C_DecryptInit(SESSION, cbc(), cipher))
            .rv()
            .0,
        0
    );
    assert_eq!(
        data(client.call(Call::C_Decrypt(SESSION, &secret))),
        [5; 32]
    );

    // CKM_AES_KEY_WRAP.
    let key_wrap = || mechanism(0x2109, &[]);
    let wrapped = data(client.call(Call::C_WrapKey(SESSION, key_wrap(), wrapping, cipher)));
    assert_eq!(wrapped.len(), 24 + 18 + 16);
    let (class, kind) = (4_u64.to_ne_bytes(), 0x1f_u64.to_ne_bytes());
    let again = template(&[(0x0, &class), (0x100, &kind), (0x1, &[0]), (0x104, &[1])]);
    let Reply::C_UnwrapKey(made) = client.call(Call::C_UnwrapKey(
        SESSION,
        key_wrap(),
        wrapping,
        &wrapped,
        again,
    )) else {
        panic!("another reply");
    };
    assert_eq!(made.rv.0, 0);
    assert_eq!(
        client
            .call(Call::C_EncryptInit(SESSION, cbc(), made.object))
            .rv()
            .0,
        0
    );
    assert_eq!(
        data(client.call(Call::C_Encrypt(SESSION, &[5; 32]))),
        secret
    );

    let bits = 2048_u64.to_ne_bytes();
    let pair = Call::C_GenerateKeyPair(
        SESSION,
        mechanism(0x0, &[]),
        template(&[
            (0x1, &[0]),
            (0x121, &bits),
            (0x122, &[1, 0, 1]),
            (0x10a, &[1]),
        ]),
        template(&[(0x1, &[0]), (0x108, &[1])]),
    );
    let Reply::C_GenerateKeyPair(pair) = client.call(pair) else {
        panic!("another reply");
    };
    assert_eq!(pair.rv.0, 0);
    // CKM_SHA256_RSA_PKCS_PSS with SHA256, MGF1 of SHA256 and 32 bytes of salt.
    let salted = [0x250_u64, 2, 32].map(u64::to_ne_bytes).concat();
    let pss = Call::C_SignInit(SESSION, mechanism(0x43, &salted), pair.private_key);
    assert_eq!(client.call(pss).rv().0, 0);
    assert_eq!(data(client.call(Call::C_Sign(SESSION, b"data"))).len(), 256);
    let pkcs1 = Call::C_SignInit(SESSION, mechanism(0x40, &[]), pair.private_key);
    assert_eq!(client.call(pkcs1).rv().0, 0x70);
    let nobody = ObjectHandle(0);
    let state = Call::C_SetOperationState(SESSION, b"state", nobody, nobody);
    assert_eq!(client.call(state).rv().0, 0x54);
}

/// What the daemon says about a rule for a vendor's mechanism, which it knows by `mechanisms_file` or not at all.
#[test]
fn rules_may_be_about_mechanisms_that_the_site_describes() {
    let directory = Directory::new();
    let null = module("nullmodule");
    let rules = format!(
        "modules = [(\"null\", \"{}\")]\nmechanism_parameters = [(\"null\", \
         [(\"0x80010001\", any, ulTagBits, \">=\", 96)])]\n",
        null.display()
    );
    std::fs::write(directory.join("filter.conf"), rules).expect("a file");
    let description = "[[structure]]\nname = \"CK_ACME_SEAL_PARAMS\"\n\
                       fields = [\"ulVersion: number\", \"ulTagBits: number\"]\nmechanisms = [0x80010001]\n";
    std::fs::write(directory.join("good.toml"), description).expect("a file");
    let wrong = description.replace("ulVersion: number", "ulVersion: address");
    std::fs::write(directory.join("wrong.toml"), wrong).expect("a file");
    let plain = configuration("type = \"internet\"; bind = \"127.0.0.1:0\"", "");
    let with = |file: &str| {
        let section = format!("{{ daemon {{ mechanisms_file = \"{file}\"; }};");
        plain.replacen('{', &section, 1)
    };
    for (conf, status, expected) in [
        (plain.clone(), 2, "filter.conf:2"),
        (with("good.toml"), 0, ""),
        (with("wrong.toml"), 2, "wrong.toml:3: "),
        (with("none.toml"), 2, "none.toml: cannot be read: "),
        (with("."), 2, "expected a file"),
    ] {
        let output = refused(&directory, &conf, &["-check"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{conf}: {text}");
        assert!(text.contains(expected), "{conf}: {text}");
    }
}
