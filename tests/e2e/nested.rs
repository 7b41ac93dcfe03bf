//! Tests a key on the token that has a template of its own: version 3 tells the size of the template, but not its
//! content.

use super::support::script::{Difference, Who, run_script};
use super::support::{Endpoint, Maker, Stack, Token};

use Maker::{Original, Ours};

/// The token with that key, which SoftHSM makes without a proxy.
fn token() -> Token {
    let stack = Stack::direct(Token::new());
    let made = run_script(&stack, &["nestedkey"]);
    assert_eq!(made.faults(), "");
    stack.token
}

/// With version 3. The original's pair would hand the client's addresses to the module.
const WITHHELD: Difference = Difference {
    section: "nestedread",
    call: "C_GetAttributeValue with room",
    client: Who::Any,
    daemon: Who::Any,
    answer: "0x12 length=-1 first=0x1267",
    reason: "a nested template holds addresses",
};

#[test]
fn a_nested_template_is_told_in_version_4_and_its_size_in_version_3() {
    let token = token();
    let sections = &["nestedread"];
    let direct = Stack::direct(token.copy());
    let expected = run_script(&direct, sections);
    assert_eq!(expected.faults(), "");
    for (client, daemon, protocol) in [
        (Ours, Ours, None),
        (Ours, Ours, Some(3)),
        (Ours, Original, None),
        (Original, Ours, None),
    ] {
        let mut stack = Stack::through(client, daemon, Endpoint::Tcp, token.copy());
        stack.protocol = protocol;
        let is_version4 = (client, daemon, protocol) == (Ours, Ours, None);
        let allowed: &[&Difference] = if is_version4 { &[] } else { &[&WITHHELD] };
        let report = run_script(&stack, sections).compare(&expected, allowed);
        assert_eq!(
            report, "",
            "{client:?} client, {daemon:?} daemon, {protocol:?}"
        );
    }
}
