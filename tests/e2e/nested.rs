//! A key on the token that has a template of its own: its size is told, and nothing of what it contains.

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

/// The original's pair would hand the client's addresses to the module.
const WITHHELD: Difference = Difference {
    section: "nestedread",
    call: "C_GetAttributeValue with room",
    client: Who::Any,
    daemon: Who::Any,
    answer: "0x12 length=-1 first=0x1267",
    reason: "a nested template holds addresses",
};

#[test]
fn of_a_nested_template_only_the_size_is_told() {
    let token = token();
    let sections = &["nestedread"];
    let direct = Stack::direct(token.copy());
    let expected = run_script(&direct, sections);
    assert_eq!(expected.faults(), "");
    for (client, daemon) in [(Ours, Ours), (Ours, Original), (Original, Ours)] {
        let stack = Stack::through(client, daemon, Endpoint::Tcp, token.copy());
        let report = run_script(&stack, sections).compare(&expected, &[&WITHHELD]);
        assert_eq!(report, "", "{client:?} client, {daemon:?} daemon");
    }
}
