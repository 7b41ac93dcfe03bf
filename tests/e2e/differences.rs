//! Lists where a pairing of client and daemon may answer differently from SoftHSM without a proxy.
//!
//! If a row does not occur in a pairing that it is for, that pairing's test fails, so the list stays true. The long
//! list is for version 3 of the protocol, which is spoken in every pairing with the original's client or daemon, and by
//! ours if they are configured to. [`VERSION4`] is the list for version 4.

use super::support::Maker;
use super::support::script::{
    Difference,
    Who::{self, Any, Original, Ours},
};

const fn row(
    section: &'static str,
    call: &'static str,
    (client, daemon): (Who, Who),
    answer: &'static str,
    reason: &'static str,
) -> Difference {
    Difference {
        section,
        call,
        client,
        daemon,
        answer,
        reason,
    }
}

const EXACT: &str = "the wire has no output length, sizes are exact and not upper bounds";
const NO_BYTES: &str = "no bytes reach the module as a pointer and length 0";
const EMPTY_TEMPLATE: &str = "NULL and count 0 is an empty template";
const REFUSED: &str = "the client refuses it before the call";
const EMPTY_PIN: &str = "the daemon answers for a token without a protected authentication path";
const CACHE: &str = "the cache of results";
const STORE: &str = "one store of found objects for all sessions and searches";
const PARAMETER: &str = "an empty parameter reaches the module as a pointer";
const NO_MEMORY: &str = "no memory has that many bytes: the client does not read them";
const NOT_WRAPPED: &str = "nothing was wrapped before it";

/// The rows for version 3. Client and daemon stand in this order.
#[rustfmt::skip]
pub const DIFFERENCES: &[Difference] = &[
    // Of the wire of version 3, or of its tables: with every pairing.
    row("encrypt", "C_Decrypt AES_CBC_PAD room=NULL", (Any, Any), "0x0 len=100", EXACT),
    row("encrypt", "C_Decrypt AES_CBC_PAD room=1", (Any, Any), "0x150 len=100", EXACT),
    row("encrypt", "C_Decrypt RSA_PKCS room=NULL", (Any, Any), "0x0 len=50", EXACT),
    row("encrypt", "C_Decrypt RSA_PKCS room=1", (Any, Any), "0x150 len=50", EXACT),
    row("encrypt", "C_Decrypt RSA_PKCS_OAEP room=NULL", (Any, Any), "0x0 len=50", EXACT),
    row("encrypt", "C_Decrypt RSA_PKCS_OAEP room=1", (Any, Any), "0x150 len=50", EXACT),
    row("encrypt", "C_DecryptFinal CBC_PAD room=NULL", (Any, Any), "0x0 len=8", EXACT),
    row("encrypt", "C_DecryptFinal CBC_PAD room=1", (Any, Any), "0x150 len=8", EXACT),
    row("encrypt", "C_Encrypt CBC_PAD of NULL room=64", (Any, Any), "0x0 len=16 0a940bb5416ef045f1c39458c653ea5a", NO_BYTES),
    row("digest", "C_DigestUpdate NULL", (Any, Any), "0x0", NO_BYTES),
    row("digest", "C_Digest of NULL room=32", (Any, Any), "0x0 len=32 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", NO_BYTES),
    row("sign", "C_SignUpdate NULL", (Any, Any), "0x0", NO_BYTES),
    row("objects", "C_CopyObject no template", (Any, Any), "0x0", EMPTY_TEMPLATE),
    row("arguments", "C_GetOperationState length NULL", (Any, Any), "0x7", REFUSED),
    row("rare", "C_WaitForSlotEvent reserved", (Any, Any), "0x7", REFUSED),
    row("token", "C_InitToken s1 empty PIN", (Any, Any), "0x7", EMPTY_PIN),
    row("token", "C_InitPIN empty", (Any, Any), "0xa1", EMPTY_PIN),
    row("token", "C_InitPIN NULL", (Any, Any), "0xa1", EMPTY_PIN),
    row("token", "C_SetPIN user both empty", (Any, Any), "0xa1", EMPTY_PIN),
    row("token", "C_SetPIN user both NULL", (Any, Any), "0xa1", EMPTY_PIN),

    // The original's client, with either daemon.
    row("info", "C_GetFunctionList", (Original, Any), "0x0 version=2.20", "the list is version 2.20"),
    row("initargs", "C_Initialize one callback", (Original, Any), "0x0", "arguments are not looked at"),
    row("initargs", "C_Initialize three callbacks", (Original, Any), "0x0", "arguments are not looked at"),
    row("initargs", "C_Initialize reserved", (Original, Any), "0x0", "arguments are not looked at"),
    row("attributes", "C_GetAttributeValue room of no bytes", (Original, Any), "0x0 0x3=3:000000", "taken for a size query, and bytes are written where there is no room"),
    row("pending", "C_DigestInit while one is pending", (Original, Any), "0x0", CACHE),
    row("pending", "C_DigestInit", (Original, Any), "0x90", CACHE),
    row("pending", "check C_Digest after the input changed never gives the first one's digest", (Original, Any), "NO", CACHE),
    row("pending", "C_Digest in the closed session", (Original, Any), "0x0", CACHE),
    row("pending", "C_Sign in the closed session", (Original, Any), "0x0", CACHE),
    row("pending", "C_Digest session 0 room=32", (Original, Any), "0x91", CACHE),
    row("pending", "C_Digest session 1 room=32", (Original, Any), "0x91", CACHE),

    // The original's daemon, with either client.
    row("attributes", "C_GetAttributeValue sensitive and empty", (Any, Original), "0x11 0x11=-1 0x102=-1", "empty and not available look alike"),
    row("findrest", "C_FindObjects after C_FindObjectsFinal", (Any, Original), "0x0 count=2", STORE),
    row("findrest", "C_FindObjects in a session without a search", (Any, Original), "0x0 count=7", STORE),
    row("findrest", "C_FindObjects the other seven", (Any, Original), "0x0 count=0", STORE),
    row("findrest", "C_FindObjects there", (Any, Original), "0x0 count=7", STORE),
    row("findrest", "C_FindObjects here, the rest", (Any, Original), "0x0 count=0", STORE),
    row("login", "C_Login user NULL", (Any, Original), "0xa0", "an empty PIN reaches the module as a pointer"),
    row("wrap", "C_WrapKey bad wrapping key", (Any, Original), "0x7", PARAMETER),
    row("wrapbare", "C_WrapKey AES_KEY_WRAP room=NULL", (Any, Original), "0x7", PARAMETER),
    row("wrapbare", "C_WrapKey AES_KEY_WRAP room=1", (Any, Original), "0x7", PARAMETER),
    row("wrapbare", "C_WrapKey AES_KEY_WRAP room=enough", (Any, Original), "0x7", PARAMETER),
    row("wrapbare", "C_WrapKey RSA_PKCS room=NULL", (Any, Original), "0x7", PARAMETER),
    row("wrapbare", "C_WrapKey RSA_PKCS room=1", (Any, Original), "0x7", PARAMETER),
    row("wrapbare", "C_WrapKey RSA_PKCS room=enough", (Any, Original), "0x7", PARAMETER),
    row("wrapbare", "C_WrapKey AES_KEY_WRAP size only", (Any, Original), "0x7", PARAMETER),
    row("wrapbare", "C_WrapKey AES_KEY_WRAP another key room=96", (Any, Original), "0x7", PARAMETER),
    row("wrapbare", "C_UnwrapKey AES_KEY_WRAP", (Any, Original), "nothing to unwrap", NOT_WRAPPED),
    row("wrapbare", "C_UnwrapKey AES_KEY_WRAP damaged", (Any, Original), "nothing to unwrap", NOT_WRAPPED),
    row("wrapbare", "C_UnwrapKey RSA_PKCS", (Any, Original), "nothing to unwrap", NOT_WRAPPED),
    row("wrapbare", "C_GetAttributeValue of the unwrapped key, AES_KEY_WRAP", (Any, Original), "nothing to unwrap", NOT_WRAPPED),
    row("wrapbare", "C_GetAttributeValue of the unwrapped key, AES_KEY_WRAP damaged", (Any, Original), "nothing to unwrap", NOT_WRAPPED),
    row("wrapbare", "C_GetAttributeValue of the unwrapped key, RSA_PKCS", (Any, Original), "nothing to unwrap", NOT_WRAPPED),

    row("attributes", "C_GetAttributeValue sensitive and empty", (Original, Ours), "0x11 0x11=-1 0x102=-1", "the client takes an empty value beside an error for one that is not available"),
    row("wrapbare", "C_WrapKey AES_KEY_WRAP another key room=96", (Original, Ours), "0x0 len=24 8cc4bfeca8a9f2f38c8b28392f1e8f4b3e5a5fd2f20bd688", "the cache gives the key of the size query"),
    row("attributes", "C_GetAttributeValue bad object, sizes", (Original, Any), "0x82 0x3=-1 0x11=-1", "lengths change on a bad handle"),
    row("attributes", "C_GetAttributeValue bad object, size of a class", (Original, Any), "0x82 0x0=8", "lengths change on a bad handle"),

    // Our daemon, with either client.
    row("login", "C_Login user empty", (Any, Ours), "0x7", "an empty PIN reaches the module as NULL, for protected authentication paths"),

    // Our client, with either daemon: what crashes an application with the original's.
    row("nulls", "C_SetOperationState NULL length=4", (Ours, Any), "0x7", "the client refuses it before the call"),
    row("nulls", "C_SignRecoverInit NULL", (Ours, Any), "0x7", "the client refuses it before the call"),
    row("nulls", "C_VerifyRecoverInit NULL", (Ours, Any), "0x7", "the client refuses it before the call"),
    row("nulls", "C_DigestInit parameter NULL length=4", (Ours, Any), "0x7", "the client refuses it before the call"),
    row("nulls", "C_WaitForSlotEvent slot NULL", (Ours, Any), "0x7", "the client refuses it before the call"),

    row("nulls", "C_FindObjectsInit value NULL length=4", (Ours, Any), "0x13", "it would find objects with an empty value"),
    row("lengths", "C_FindObjectsInit label", (Ours, Any), "0x13", "it would find objects with an empty value"),
    row("lengths", "C_DigestInit parameter", (Ours, Any), "0x21", NO_MEMORY),

    row("odd", "C_SeedRandom NULL", (Ours, Any), "0x0", NO_BYTES),
    row("odd", "C_Verify signature NULL", (Ours, Any), "0xc1", NO_BYTES),
    row("odd", "C_UnwrapKey no bytes, NULL", (Ours, Any), "0x70", NO_BYTES),
    row("odd", "C_SetPIN old NULL", (Ours, Any), "0xa0", NO_BYTES),
    row("odd", "C_SetPIN new NULL", (Ours, Any), "0xa2", NO_BYTES),
    row("odd", "C_CreateObject NULL", (Ours, Any), "0xd0", EMPTY_TEMPLATE),
    row("odd", "C_DeriveKey NULL", (Ours, Any), "0x68", EMPTY_TEMPLATE),
    row("odd", "C_UnwrapKey NULL", (Ours, Any), "0x70", EMPTY_TEMPLATE),

    // Run with at least one of ours: pointers do not travel.
    row("pointers", "C_EncryptInit AES_GCM", (Any, Any), "0x71", "a parameter that holds pointers is refused"),
    row("pointers", "C_EncryptInit RSA_PKCS_OAEP with a label", (Any, Any), "0x71", "a parameter that holds pointers is refused"),
    row("pointers", "C_DeriveKey ECDH1", (Any, Any), "0x71", "a parameter that holds pointers is refused"),
];

/// The rows for version 4, which our two halves speak with each other.
#[rustfmt::skip]
pub const VERSION4: &[Difference] = &[
    row("rare", "C_WaitForSlotEvent reserved", (Ours, Ours), "0x7", REFUSED),
    row("lengths", "C_FindObjectsInit label", (Ours, Ours), "0x13", NO_MEMORY),
    row("lengths", "C_DigestInit parameter", (Ours, Ours), "0x21", NO_MEMORY),
];

/// The rows for this pairing, which speaks this version of the protocol.
pub fn allowed(
    client: Maker,
    daemon: Maker,
    version: u32,
) -> impl Iterator<Item = &'static Difference> {
    let rows = if version == 4 { VERSION4 } else { DIFFERENCES };
    let is_for =
        move |row: &&Difference| row.client.includes(client) && row.daemon.includes(daemon);
    rows.iter().filter(is_for)
}
