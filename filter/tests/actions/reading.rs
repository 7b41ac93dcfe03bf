//! Tests what the filter reads of objects and takes from templates, with unusual modules and clients.

use filter::attributes::{Attributes, Boolean, Class};
use filter::object_reader::ObjectReader;
use xdr::{CkRv, Function, ObjectHandle, SessionHandle};

use crate::chain::{S, attributes};
use crate::token::{Reads, Token};

const KEY: &str = "CLASS=#4 SENSITIVE=T EXTRACTABLE=F ENCRYPT=T WRAP=F LOCAL=0x02 PRIVATE=";

fn expected() -> Attributes {
    Attributes {
        class: Some(Class::SECRET_KEY),
        booleans: FromIterator::from_iter([
            (Boolean::Sensitive, true),
            (Boolean::Extractable, false),
            (Boolean::Encrypt, true),
            (Boolean::Wrap, false),
            (Boolean::Local, true),
        ]),
    }
}

#[test]
fn reads_an_object_in_one_call() {
    let token = Token::new();
    let key = token.put(KEY);
    assert_eq!(ObjectReader::new(&token).attributes(S, key), Ok(expected()));
    assert_eq!(token.calls(), [Function::C_GetAttributeValue]);
}

/// A value that the module left unwritten is not treated as FALSE.
#[test]
fn asks_again_for_what_a_module_left_open() {
    for how in [
        Reads::UpToTheFirstMissing,
        Reads::AllOrNothing,
        Reads::LongBooleans,
    ] {
        let token = Token::new();
        let key = token.put(KEY);
        token.reads(how);
        assert_eq!(ObjectReader::new(&token).attributes(S, key), Ok(expected()));
        assert!(token.calls().len() > 1);
    }
}

#[test]
fn gives_the_errors_of_the_module() {
    let token = Token::new();
    let key = token.put(KEY);
    let read = |session, object| {
        let reader = ObjectReader::new(&token);
        reader.attributes(session, object).err()
    };
    assert_eq!(read(S, ObjectHandle(7)), Some(CkRv::OBJECT_HANDLE_INVALID));
    assert_eq!(
        read(SessionHandle(2), key),
        Some(CkRv::SESSION_HANDLE_INVALID)
    );
    token.reads(Reads::OneTooFew);
    assert_eq!(read(S, key), Some(CkRv::GENERAL_ERROR));
    for rv in [CkRv::ATTRIBUTE_SENSITIVE, CkRv::DEVICE_ERROR, CkRv(1 << 31)] {
        token.reads(Reads::Not(rv));
        assert_eq!(read(S, key), Some(rv));
    }
    // The class has another length than a number.
    token.reads(Reads::Well);
    let odd = token.put("CLASS=0x0400");
    assert_eq!(read(S, odd), Some(CkRv::GENERAL_ERROR));
}

#[test]
fn shares_what_was_read_within_a_call_only() {
    let token = Token::new();
    let keys = [token.put(KEY), token.put("CLASS=#2"), token.put("CLASS=#3")];
    let reader = ObjectReader::new(&token);
    let get = |key| reader.attributes(S, key);
    for key in keys {
        let first = get(key);
        assert_eq!(get(key), first);
    }
    assert_eq!(token.calls().len(), 3);
    // An error is remembered as well, and the same handle in another session counts as another object.
    assert_eq!(get(ObjectHandle(7)), get(ObjectHandle(7)));
    assert_eq!(token.calls().len(), 1);
    let other = SessionHandle(2);
    assert!(reader.attributes(other, keys[2]).is_err());
}

#[test]
fn takes_a_sound_template_only() {
    let of = |text| Attributes::of_template(&attributes(text));
    assert_eq!(
        of("CLASS=#4 SENSITIVE=T EXTRACTABLE=F ENCRYPT=0xff WRAP=F LOCAL=T LABEL=x"),
        Ok(expected())
    );
    assert_eq!(of("CLASS= LABEL="), Ok(Attributes::default()));
    for (text, rv) in [
        ("WRAP=", CkRv::ATTRIBUTE_VALUE_INVALID),
        ("WRAP=0x0001", CkRv::ATTRIBUTE_VALUE_INVALID),
        ("CLASS=0x04", CkRv::ATTRIBUTE_VALUE_INVALID),
        ("CLASS=0x00000004", CkRv::ATTRIBUTE_VALUE_INVALID),
        ("WRAP=T LABEL=x WRAP=F", CkRv::TEMPLATE_INCONSISTENT),
        ("WRAP=T WRAP=T", CkRv::TEMPLATE_INCONSISTENT),
        ("CLASS=#0 CLASS=#4", CkRv::TEMPLATE_INCONSISTENT),
    ] {
        // A class of 4 bytes is valid where CK_ULONG has 4 bytes.
        if size_of::<std::ffi::c_ulong>() == 8 || !text.starts_with("CLASS=0x0000") {
            assert_eq!(of(text), Err(rv), "{text}");
        }
    }
}

#[test]
fn takes_unknown_classes_for_keys() {
    for class in [2, 3, 4, 8, 0xc, 0x8000_0001] {
        assert!(Class(class).is_key(), "{class:#x}");
    }
    for class in [0, 1, 5, 6, 7, 9, 0xa, 0xb] {
        assert!(!Class(class).is_key(), "{class:#x}");
    }
}
