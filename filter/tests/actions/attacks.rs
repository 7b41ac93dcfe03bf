//! Plays the attacks of docs/attacks.md in the forms that only version 4 has. Each succeeds without rules and fails
//! with each set of rules. `tests/attacks` plays the others.

use std::path::Path;
use std::sync::Arc;

use filter::{Compatibility, Filter, Rules};
use xdr::{
    Attribute, AttributeType, Call, CkRv, Cryptoki, Flags, Input, Mechanism, ObjectHandle, Reply,
    Value,
};

use crate::chain::{ALL, Pairs, S, attributes, mechanism, patch_set_1, patch_set_2, t};
use crate::symbolic::Symbolic;

/// CKM_ML_KEM.
fn kem() -> Option<Mechanism> {
    mechanism(0x17, &[])
}

/// CKM_AES_KEY_WRAP.
fn key_wrap() -> Option<Mechanism> {
    mechanism(0x2109, &[])
}

const AAD: Input<'static> = Input::Bytes(b"associated");

/// A client in front of the token, and the key that it tries to get.
struct Scene<'a> {
    client: &'a dyn Cryptoki,
    token: &'a Symbolic,
    /// A sensitive key that can be wrapped.
    target: ObjectHandle,
    /// A key that encapsulates and decapsulates.
    kem: ObjectHandle,
}

/// What an attack found out, or the CK_RV that stopped it.
type Outcome = Result<Vec<u8>, CkRv>;

impl Scene<'_> {
    fn key(&self, call: Call<'_>) -> Result<ObjectHandle, CkRv> {
        let reply = self.client.call(call);
        let rv = reply.rv();
        let object = match reply {
            Reply::C_GenerateKey(made)
            | Reply::C_DecapsulateKey(made)
            | Reply::C_UnwrapKey(made)
            | Reply::C_UnwrapKeyAuthenticated(made) => made.object,
            other => panic!("{other:?}"),
        };
        rv_or(rv, object.unwrap_or_default())
    }

    fn generate(&self, template: &str) -> Result<ObjectHandle, CkRv> {
        self.key(Call::C_GenerateKey(S, mechanism(0x1080, &[]), t(template)))
    }

    fn encapsulate(&self, template: &str) -> Result<(ObjectHandle, Vec<u8>), CkRv> {
        let call = Call::C_EncapsulateKey(S, kem(), self.kem, t(template), ALL);
        match self.client.call(call) {
            Reply::C_EncapsulateKey(made) => rv_or(
                made.rv,
                (made.object.unwrap_or_default(), made.data.to_vec()),
            ),
            other => panic!("{other:?}"),
        }
    }

    fn decapsulate(&self, ciphertext: &[u8], template: &str) -> Result<ObjectHandle, CkRv> {
        let ciphertext = ciphertext.into();
        self.key(Call::C_DecapsulateKey(
            S,
            kem(),
            self.kem,
            t(template),
            ciphertext,
        ))
    }

    fn wrap(&self, authenticated: bool, wrapping: ObjectHandle, key: ObjectHandle) -> Outcome {
        let call = match authenticated {
            true => Call::C_WrapKeyAuthenticated(S, key_wrap(), wrapping, key, AAD, ALL),
            false => Call::C_WrapKey(S, key_wrap(), wrapping, key, ALL),
        };
        match self.client.call(call) {
            Reply::C_WrapKey(result) | Reply::C_WrapKeyAuthenticated(result) => {
                rv_or(result.rv, result.data.to_vec())
            }
            other => panic!("{other:?}"),
        }
    }

    fn unwrap(
        &self,
        authenticated: bool,
        key: ObjectHandle,
        blob: &[u8],
        template: &str,
    ) -> Result<ObjectHandle, CkRv> {
        let (m, blob, template) = (key_wrap(), blob.into(), t(template));
        self.key(match authenticated {
            true => Call::C_UnwrapKeyAuthenticated(S, m, key, blob, template, AAD),
            false => Call::C_UnwrapKey(S, m, key, blob, template),
        })
    }

    /// Decrypts with message functions, or with the older ones.
    fn decrypt(&self, by_message: bool, key: ObjectHandle, blob: &[u8]) -> Outcome {
        let m = || mechanism(0x1081, &[]);
        let begin = match by_message {
            true => Call::C_MessageDecryptInit(S, m(), key),
            false => Call::C_DecryptInit(S, m(), key),
        };
        rv_or(self.client.call(begin).rv(), ())?;
        let parameter = m().expect("it is not NULL");
        let decrypt = match by_message {
            true => Call::C_DecryptMessage(S, parameter, AAD, blob.into(), ALL),
            false => Call::C_Decrypt(S, blob.into(), ALL),
        };
        match self.client.call(decrypt) {
            Reply::C_Decrypt(result) => rv_or(result.rv, result.data.to_vec()),
            Reply::C_DecryptMessage(result) => rv_or(result.rv, result.data.to_vec()),
            other => panic!("{other:?}"),
        }
    }

    /// Wraps the target with one key and decrypts it with another.
    fn export(&self, wrapping: ObjectHandle, decrypting: ObjectHandle) -> Outcome {
        let blob = self.wrap(false, wrapping, self.target)?;
        // The bytes that a wrapping format adds are not part of the ciphertext.
        self.decrypt(true, decrypting, blob.get(..16).unwrap_or(&blob))
    }
}

fn rv_or<T>(rv: CkRv, value: T) -> Result<T, CkRv> {
    match rv.is_ok() {
        true => Ok(value),
        false => Err(rv),
    }
}

const WRAP: &str = "CLASS=#4 WRAP=T SENSITIVE=T";
const DECRYPT: &str = "CLASS=#4 DECRYPT=T SENSITIVE=T";

type Attack = fn(&Scene<'_>) -> Outcome;

/// Each attack, named after its family in docs/attacks.md, and the CK_RV that stops it with patch set 1, patch
/// set 2, etc/filter-strict.conf, and the same with C_DeriveKey allowed.
const ATTACKS: &[(&str, [u64; 4], Attack)] = &[
    (
        "S1 the key decrypts a message",
        [0x13, 0xd1, 0x13, 0x13],
        |scene| {
            let key = scene.generate("WRAP=T DECRYPT=T SENSITIVE=T")?;
            scene.export(key, key)
        },
    ),
    ("S14 a key of old decrypts a message", [0x82; 4], |scene| {
        let key = scene.token.put("WRAP=T DECRYPT=T SENSITIVE=T");
        scene.export(key, key)
    }),
    (
        "S11 encapsulated to wrap, decapsulated to decrypt",
        [0x13, 0xd1, 0x54, 0x13],
        |scene| {
            let (wrapping, ciphertext) = scene.encapsulate(WRAP)?;
            let decrypting = scene.decapsulate(&ciphertext, DECRYPT)?;
            scene.export(wrapping, decrypting)
        },
    ),
    (
        "S11 encapsulated to decrypt, decapsulated to wrap",
        [0x13, 0xd1, 0x54, 0x13],
        |scene| {
            let (decrypting, ciphertext) = scene.encapsulate(DECRYPT)?;
            let wrapping = scene.decapsulate(&ciphertext, WRAP)?;
            scene.export(wrapping, decrypting)
        },
    ),
    (
        "S11 decapsulated twice",
        [0x13, 0xd1, 0x54, 0x13],
        |scene| {
            let (_, ciphertext) = scene.encapsulate("CLASS=#4 SENSITIVE=T")?;
            let wrapping = scene.decapsulate(&ciphertext, WRAP)?;
            let decrypting = scene.decapsulate(&ciphertext, DECRYPT)?;
            scene.export(wrapping, decrypting)
        },
    ),
    (
        "S11 encapsulated with both roles",
        [0x13, 0xd1, 0x54, 0x13],
        |scene| {
            let (key, _) = scene.encapsulate("CLASS=#4 WRAP=T DECRYPT=T SENSITIVE=T")?;
            scene.export(key, key)
        },
    ),
    (
        "S8 unwrapped twice with authentication",
        [0xd1; 4],
        |scene| twice(scene, true, [true, true]),
    ),
    (
        "S8 wrapped with authentication, unwrapped without",
        [0xd1; 4],
        |scene| twice(scene, true, [false, false]),
    ),
    (
        "S8 wrapped without authentication, unwrapped with",
        [0xd1; 4],
        |scene| twice(scene, false, [true, true]),
    ),
    (
        "S8 unwrapped with and without authentication",
        [0xd1; 4],
        |scene| twice(scene, false, [true, false]),
    ),
    ("R9 the unwrapping key adds a role", [0x12; 4], |scene| {
        // This key wants each new key that it makes to decrypt, whatever the templates say.
        let inner = Attribute {
            attribute_type: AttributeType(0x4000_0212),
            value: Value::Template(attributes("DECRYPT=T")),
        };
        let mut template = attributes("WRAP=T UNWRAP=T SENSITIVE=T");
        template.0.push(inner);
        let m = mechanism(0x1080, &[]);
        let maker = scene.key(Call::C_GenerateKey(S, m, Some(template)))?;
        let known = scene.generate("WRAP=T SENSITIVE=T EXTRACTABLE=T")?;
        let blob = scene.wrap(true, maker, known)?;
        let both = scene.unwrap(
            true,
            maker,
            &blob,
            "CLASS=#4 WRAP=T SENSITIVE=T EXTRACTABLE=T",
        )?;
        scene.export(both, both)
    }),
    (
        "R9 a key of old adds a role",
        [0x13, 0xd1, 0x13, 0x13],
        |scene| {
            let maker = scene.token.put("WRAP=T UNWRAP=T SENSITIVE=T");
            let inner = Value::Template(attributes("DECRYPT=T"));
            scene.token.set(maker, 0x4000_0212, inner);
            let known = scene.generate("WRAP=T SENSITIVE=T EXTRACTABLE=T")?;
            let blob = scene.wrap(false, maker, known)?;
            let both = scene.unwrap(
                false,
                maker,
                &blob,
                "CLASS=#4 WRAP=T SENSITIVE=T EXTRACTABLE=T",
            )?;
            scene.export(both, both)
        },
    ),
];

/// Wraps a key, and unwraps it twice: once to wrap and once to decrypt.
fn twice(scene: &Scene<'_>, wraps: bool, unwraps: [bool; 2]) -> Outcome {
    let wrapping = scene.generate("WRAP=T UNWRAP=T SENSITIVE=T")?;
    let key = scene.generate("SENSITIVE=T EXTRACTABLE=T")?;
    let blob = scene.wrap(wraps, wrapping, key)?;
    let first = scene.unwrap(unwraps[0], wrapping, &blob, WRAP)?;
    let second = scene.unwrap(unwraps[1], wrapping, &blob, DECRYPT)?;
    scene.export(first, second)
}

fn rules(text: &str) -> Arc<Rules> {
    let text = format!("{text}\nwrapping_format_key = \"0f1e2d3c4b5a69788796a5b4c3d2e1f0\"");
    let rules = Rules::parse(text.as_bytes(), Path::new("f"), &Compatibility::default());
    Arc::new(rules.unwrap_or_else(|error| panic!("{error}")))
}

fn chain(pairs: &Pairs) -> String {
    let steps: Vec<String> = pairs
        .iter()
        .map(|(function, action)| format!("({}, {action})", function.name()))
        .collect();
    let steps = steps.join(", ");
    format!("modules = [(m, \"/m.so\")]\nfilter_actions_post = [(\".*\", [{steps}])]")
}

/// Whether the attack gets the value of the target.
fn wins(attack: Attack, rules: &Arc<Rules>, alias: &[u8]) -> Result<bool, CkRv> {
    let token = Symbolic::default();
    let target = token.put("SENSITIVE=T EXTRACTABLE=T ENCRYPT=T");
    let kem = token.put("SENSITIVE=T EXTRACTABLE=F DERIVE=T");
    let entry = rules.module(alias).expect("it has an alias");
    let client = Filter::new(rules, alias, entry, &token);
    client.call(Call::C_Initialize(Flags(0)));
    let scene = Scene {
        client: &client,
        token: &token,
        target,
        kem,
    };
    attack(&scene).map(|found| token.is_secret_of(target, &found))
}

#[test]
fn attacks_succeed_without_rules_and_fail_with_each_set() {
    let strict = concat!(env!("CARGO_MANIFEST_DIR"), "/../etc/filter-strict.conf");
    let strict = std::fs::read_to_string(strict).expect("our own file");
    // With derivation and encapsulation allowed: the actions stop the attacks, too.
    let derives = strict.replace("    C_DeriveKey,\n", "");
    assert_ne!(derives, strict);
    let sets = [
        (
            "patch set 1",
            rules(&chain(&patch_set_1())),
            b"m".as_slice(),
        ),
        ("patch set 2", rules(&chain(&patch_set_2())), b"m"),
        ("filter-strict.conf", rules(&strict), b"softhsm"),
        (
            "filter-strict.conf with C_DeriveKey",
            rules(&derives),
            b"softhsm",
        ),
    ];
    let none = rules("modules = [(m, \"/m.so\")]");
    for (name, stopped_by, attack) in ATTACKS {
        assert_eq!(
            wins(*attack, &none, b"m"),
            Ok(true),
            "{name}, without rules"
        );
        for ((set, rules, alias), rv) in sets.iter().zip(stopped_by) {
            let outcome = wins(*attack, rules, alias);
            assert_eq!(outcome, Err(CkRv(*rv)), "{name}, {set}");
        }
    }
}

/// Does what the attacks do, but with one role for each key.
#[test]
fn honest_calls_pass_with_each_set() {
    for set in [patch_set_1(), patch_set_2()] {
        let token = Symbolic::default();
        let rules = rules(&chain(&set));
        let entry = rules.module(b"m").expect("it has an alias");
        let client = Filter::new(&rules, b"m", entry, &token);
        let scene = Scene {
            client: &client,
            token: &token,
            target: token.put("SENSITIVE=T EXTRACTABLE=T ENCRYPT=T"),
            kem: token.put("SENSITIVE=T EXTRACTABLE=F DERIVE=T"),
        };
        let (encrypting, ciphertext) = scene.encapsulate("CLASS=#4 ENCRYPT=T").expect("one role");
        let again = scene.decapsulate(&ciphertext, "CLASS=#4 ENCRYPT=T");
        assert_ne!(again, Ok(encrypting));
        assert!(again.is_ok(), "{again:?}");
        let wrapping = scene.generate("WRAP=T UNWRAP=T").expect("one role");
        for authenticated in [false, true] {
            let blob = scene.wrap(authenticated, wrapping, scene.target);
            let blob = blob.expect("it can be wrapped");
            let unwrapped = scene.unwrap(authenticated, wrapping, &blob, "CLASS=#4 ENCRYPT=T");
            assert!(unwrapped.is_ok(), "{unwrapped:?}");
        }
    }
}
