//! Tests the actions that only watch or serve as examples.

use std::sync::atomic::Ordering;

use xdr::Function::*;
use xdr::{Call, CkRv, Flags, Function, UserType};

use crate::chain::{Chain, S, everywhere};
use crate::token::Token;

#[test]
fn lets_pass_what_an_action_is_not_about() {
    let token = Token::new();
    for (action, function) in [
        ("identity", C_Finalize),
        ("c_Initialize_hook", C_Initialize),
        ("do_segregate_usage", C_Initialize),
    ] {
        let chain = Chain::new(&token, &vec![(function, action)]);
        let call = match function {
            C_Finalize => Call::C_Finalize(),
            _ => Call::C_Initialize(Flags(0)),
        };
        assert_eq!(chain.rv(call), CkRv::OK);
        assert_eq!(token.calls(), [function]);
        let is_segregated = chain.segregation.load(Ordering::Relaxed);
        assert_eq!(is_segregated, action == "do_segregate_usage");
    }
}

#[test]
fn lets_nobody_in_but_with_the_pin_of_the_example() {
    let token = Token::new();
    let chain = Chain::new(&token, &everywhere("c_Login_hook"));
    let login = |pin: &[u8]| chain.rv(Call::C_Login(S, UserType(1), pin.into()));
    assert_eq!(login(b"1234"), CkRv::OK);
    assert_eq!(token.calls(), [C_Login]);
    for pin in [&b""[..], b"123", b"12345", b"0000"] {
        assert_eq!(login(pin), CkRv::PIN_LOCKED);
    }
    assert!(token.calls().is_empty());
}

/// In the original, C_Logout with the login hook ends the process.
#[test]
fn knows_which_functions_an_action_is_for() {
    let possible = |action: &str, function: Function| {
        let row = filter::actions::row(action).expect("it is an action");
        (row.fits)(function)
    };
    assert!(!possible("c_Login_hook", C_Logout));
    assert!(!possible("wrapping_format_patch", C_CreateObject));
    assert!(!possible("sticky_attributes_patch", C_CreateObject));
    assert!(possible("do_segregate_usage", C_OpenSession));
}
