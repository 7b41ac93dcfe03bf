//! Lists what differs between a module alone and the same module behind our pair, and why.
//!
//! [`is_named`] judges two answers to one call; [`arriving`] says which calls arrive at the module, and how. A
//! difference that is not listed here is a bug.

/// A difference between the answer of a module alone and the one through our pair.
struct Difference {
    why: &'static str,
    /// Whether it explains a call, its answer at the module, and its answer here.
    explains: fn(&str, &str, &str) -> bool,
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        why: "a pointer that PKCS#11 reserves is refused by the client: it cannot be told",
        explains: |call, _, here| has_a_reserved_pointer(call) && here == "0x7",
    },
    Difference {
        why: "a template that is NULL with a count is refused by the client, before the module finds another fault",
        explains: |call, _, here| has_a_hollow_template(call) && here == "0x7",
    },
    Difference {
        why: "a parameter without a description, or of another structure, does not cross",
        explains: |call, _, here| lacks_a_description(call) && here == "0x71",
    },
];

/// Whether a difference in answers has a reason.
pub fn is_named(call: &str, direct: &str, here: &str) -> bool {
    DIFFERENCES
        .iter()
        .any(|difference| (difference.explains)(call, direct, here))
}

/// The reasons that none of these differences has: they may be deleted.
pub fn unused(differences: &[(&str, &str, &str)]) -> Vec<&'static str> {
    DIFFERENCES
        .iter()
        .filter(|row| {
            !differences
                .iter()
                .any(|(call, direct, here)| (row.explains)(call, direct, here))
        })
        .map(|row| row.why)
        .collect()
}

/// Whether a pointer is set that PKCS#11 reserves.
fn has_a_reserved_pointer(call: &str) -> bool {
    call.starts_with("C_WaitForSlotEvent ") && call.ends_with(" pReserved=set")
}

/// Whether the parameter is one that our two halves cannot carry.
fn lacks_a_description(call: &str) -> bool {
    call.contains("{0x80004711 ") || call.contains("_PARAMS?:")
}

/// What the module is called with when an application calls `call`, which the module alone answers with `direct`.
/// `None`: our halves answer it.
pub fn arriving(call: &str, direct: &str) -> Option<String> {
    let rv = direct.split(' ').next().unwrap_or_default();
    // The daemon initialises the module with arguments of its own.
    if call.starts_with("C_Initialize ")
        || call.starts_with("C_Finalize ")
        || rv == "0x190"
        || (rv == "0x54" && !call.starts_with("C_WaitForSlotEvent "))
        || has_a_reserved_pointer(call)
        || lacks_a_description(call)
        || has_a_hollow_template(call)
        || has_a_broken_array(call)
    {
        return None;
    }
    if ["0x91", "0xb3"].contains(&rv) && has_a_message_parameter(call) {
        // Nobody knows what structure the parameter is: the daemon asks whether there is such a session.
        let session = call.split(' ').nth(1).unwrap_or_default();
        return Some(format!("C_GetSessionInfo {session} pInfo=<>"));
    }
    // A number of a length that no number has comes without bytes.
    let call = normal(call).replace("=?:18446744073709551615", "=0:");
    Some(call.replace("=?:4294967295", "=0:"))
}

/// The calls of a recorder behind our pair, to be compared with those [`arriving`].
pub fn arrived(log: &[&str]) -> Vec<String> {
    log.iter()
        .filter(|call| !call.starts_with("C_Initialize ") && !call.starts_with("C_Finalize "))
        .map(|call| normal(call))
        .collect()
}

/// A call without what has no meaning: a buffer whose length is nowhere; pApplication, which is the
/// application's own.
fn normal(call: &str) -> String {
    let call = match call.split_once(" phObject=") {
        Some((find, _)) if call.ends_with(" pulObjectCount=<NULL>") => find,
        _ => call,
    };
    let call = call.replace("=<NULL, no length>", "=<no length>");
    let call = call.replace(" pApplication=set", "");
    call.replace(" pApplication=NULL", "")
}

fn has_a_hollow_template(call: &str) -> bool {
    ["pTemplate", "pPublicKeyTemplate", "pPrivateKeyTemplate"]
        .iter()
        .any(|name| call.contains(&format!(" {name}=NULL:")))
}

/// Whether the value of an attribute is no array of attributes, where it should be one.
fn has_a_broken_array(call: &str) -> bool {
    ["0x40000211=?:", "0x40000212=?:"]
        .iter()
        .any(|value| call.contains(value))
}

fn has_a_message_parameter(call: &str) -> bool {
    let function = call.split(' ').next().unwrap_or_default();
    let ends = ["Message", "MessageBegin", "MessageNext"];
    ends.iter().any(|end| function.ends_with(end))
}
