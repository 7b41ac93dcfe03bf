//! Takes the library's steps with one daemon, from resolving its name to C_Finalize.

use std::fmt;
use std::time::{Duration, Instant};

use cryptoki_sys::{
    CK_FLAGS, CKF_PROTECTED_AUTHENTICATION_PATH, CKF_SO_PIN_LOCKED, CKF_TOKEN_INITIALIZED,
    CKF_TOKEN_PRESENT, CKF_USER_PIN_COUNT_LOW, CKF_USER_PIN_FINAL_TRY, CKF_USER_PIN_INITIALIZED,
    CKF_USER_PIN_LOCKED, CKF_WRITE_PROTECTED,
};
use transport::Deadline;
use transport::halves::Halves;
use xdr::rpc::Version;
use xdr::word_size::wide;
use xdr::{
    CkRv, Function, INTERFACE_2_40, INTERFACE_3_0, INTERFACE_3_2, Room, SlotId, TokenInfo, Ulong,
};

use super::report::Report;
use crate::certificate::Certificate;
use crate::connection::{Connection, offered};
use crate::link::{DistantModule, Link};
use crate::remote::{ask, result};
use crate::settings::{Daemon, Settings, TlsSettings};
use crate::socket::{self, Connected, Purpose, Resolved};
use crate::tls::{self, Secured, TlsError};

/// The upper bound on the slots that are listed.
const MOST_SLOTS: u64 = 1000;

/// How many calls are measured, and for how long at most.
const CALLS: usize = 100;
const MEASURED: Duration = Duration::from_secs(2);

/// Flags of CK_TOKEN_INFO that say why a token cannot be used as expected. The bool says for which state of the flag
/// the text is printed.
const TOKEN_FLAGS: [(CK_FLAGS, bool, &str); 7] = [
    (
        CKF_PROTECTED_AUTHENTICATION_PATH,
        true,
        "the PIN is entered at the token, so the library cannot repeat a login",
    ),
    (CKF_WRITE_PROTECTED, true, "is write-protected"),
    (CKF_USER_PIN_INITIALIZED, false, "has no user PIN yet"),
    (CKF_USER_PIN_COUNT_LOW, true, "a wrong user PIN was entered"),
    (
        CKF_USER_PIN_FINAL_TRY,
        true,
        "the next wrong user PIN locks it",
    ),
    (CKF_USER_PIN_LOCKED, true, "the user PIN is LOCKED"),
    (CKF_SO_PIN_LOCKED, true, "the SO PIN is LOCKED"),
];

/// A certificate that expires within this number of days is reported.
const SOON: i32 = 30;

/// Takes the library's steps up to the first that fails. Returns the labels of the tokens.
pub(super) fn examine(
    daemon: &Daemon,
    settings: &Settings,
    report: &mut Report<'_>,
) -> Vec<String> {
    let mut tokens = Vec::new();
    if let Some(link) = start(daemon, settings, report) {
        show_interfaces(&link, settings, report);
        use_module(&link, &mut tokens, report);
        match link.finish() {
            Ok(()) => report.good("C_Finalize", &"disconnected"),
            Err(rv) => report.failed("C_Finalize", &rv, None),
        }
    }
    tokens
}

/// Takes the steps up to C_Initialize.
fn start(daemon: &Daemon, settings: &Settings, report: &mut Report<'_>) -> Option<Link> {
    // As in the library, one deadline for all of these steps together.
    let deadline = Deadline::after(settings.timeout);
    let connected = connect(daemon, settings, deadline, report)?;
    let Connected { registered, timed } = connected;
    let halves = match &daemon.tls {
        None => Halves::plain(timed),
        Some(tls) => {
            let start = Instant::now();
            match tls::connect(timed, tls, offered(settings.protocol), deadline) {
                Ok(secured) => show_tls(secured, tls, Since(start), report),
                Err(error) => {
                    report.failed("TLS handshake", &error, error.advice());
                    show_refused(&error, report);
                    return None;
                }
            }
        }
    };
    let peer = daemon.endpoint.clone();
    let nothing = Box::new(|_, _| CkRv::OK); // there is no session
    let connection = Connection::over(peer, registered, halves, settings, deadline, nothing);
    let start = Instant::now();
    let link = match Link::start(connection, settings, false) {
        Ok(link) => link,
        Err(error) => {
            for name in steps_before(error.function()) {
                report.good(name, &"the daemon's answer is CKR_OK");
            }
            // The text begins with the name of the call.
            let text = error.to_string();
            let name = error.function().name();
            let cause = text.strip_prefix(&format!("{name}: ")).unwrap_or(&text);
            report.failed(name, &cause, error.advice());
            return None;
        }
    };
    let (version, alias) = (link.version(), String::from_utf8_lossy(&settings.alias));
    let version = match (version, settings.protocol) {
        (Version::Four, _) => "version 4 of the protocol",
        (Version::Three, None) => "version 3 of the protocol, like Caml Crush's daemon",
        (Version::Three, Some(_)) => "version 3 of the protocol, as the settings say",
    };
    report.good("C_SetupArch", &version);
    report.good("C_LoadModule", &format_args!("alias {alias}"));
    report.good("C_Initialize", &Since(start));
    Some(link)
}

/// Prints the interfaces of the module, and which of them applications get.
fn show_interfaces(link: &Link, settings: &Settings, report: &mut Report<'_>) {
    let interfaces = link.interfaces().0 | INTERFACE_2_40;
    let newest = (settings.interface.major, settings.interface.minor);
    let versions = [
        ((2, 40), INTERFACE_2_40),
        ((3, 0), INTERFACE_3_0),
        ((3, 2), INTERFACE_3_2),
    ];
    let texts = versions
        .into_iter()
        .filter(|(_, flag)| interfaces & flag != 0);
    let texts = texts.map(|(version, _)| {
        let ((major, minor), offered) = (version, version <= newest);
        let text = if offered {
            ""
        } else {
            " (not offered, as interface says)"
        };
        format!("{major}.{minor}{text}")
    });
    let texts: Vec<String> = texts.collect();
    report.more("interfaces", &format_args!("PKCS#11 {}", texts.join(", ")));
}

/// Returns the names of the calls of C_Initialize that succeeded before this one failed.
fn steps_before(failed: Function) -> impl Iterator<Item = &'static str> {
    let steps = [Function::C_SetupArch, Function::C_LoadModule];
    let before = steps.into_iter().take_while(move |step| *step != failed);
    before.map(Function::name)
}

fn connect(
    daemon: &Daemon,
    settings: &Settings,
    deadline: Deadline,
    report: &mut Report<'_>,
) -> Option<Connected> {
    let start = Instant::now();
    let resolved = match socket::resolve(&daemon.endpoint, settings.threads, deadline) {
        Ok(resolved) => resolved,
        Err(error) => {
            report.failed("name", &error, error.advice());
            return None;
        }
    };
    if let Resolved::Addresses(addresses) = &resolved {
        let all: Vec<String> = addresses.iter().map(|it| it.ip().to_string()).collect();
        let time = Since(start);
        report.good("name", &format_args!("{} {time}", all.join(", ")));
    }
    let start = Instant::now();
    match socket::connect(&resolved, Purpose::Application, deadline) {
        Ok(connected) => {
            let time = Since(start);
            let peer = connected.timed.socket().peer_addr().ok();
            match peer.and_then(|peer| peer.as_socket()) {
                Some(peer) => report.good("connection", &format_args!("to {peer} {time}")),
                None => report.good("connection", &time),
            }
            Some(connected)
        }
        Err(error) => {
            report.failed("connection", &error, error.advice());
            None
        }
    }
}

fn show_tls(
    secured: Secured,
    settings: &TlsSettings,
    time: Since,
    report: &mut Report<'_>,
) -> Halves {
    let Secured {
        halves,
        version,
        suite,
        server,
    } = secured;
    report.good(
        "TLS handshake",
        &format_args!("{version} with {suite} {time}"),
    );
    match &server {
        Some(certificate) => show_certificate(certificate, report),
        None => report.more("certificate", &"none: a pre-shared key proves both sides"),
    }
    match &settings.name {
        Some(name) => report.more("verified name", name),
        None if server.is_some() => report.more(
            "verified name",
            &"any: verify_name (PKCS11PROXY_VERIFY_NAME) is not set",
        ),
        None => {}
    }
    halves
}

/// Prints the certificate because of which the handshake failed.
fn show_refused(error: &TlsError, report: &mut Report<'_>) {
    match error {
        TlsError::Unverified(refused) => {
            if let Some(server) = &refused.server {
                show_certificate(server, report);
            }
            if let Some(issuer) = &refused.issuer {
                report.more("refused for", issuer);
            }
        }
        TlsError::NotPinned(_, certificate) => show_certificate(certificate, report),
        _ => {}
    }
}

fn show_certificate(certificate: &Certificate, report: &mut Report<'_>) {
    let Certificate {
        subject,
        issuer,
        names,
        not_before,
        not_after,
        days_left,
        fingerprint,
    } = certificate;
    report.more("certificate", subject);
    report.more("  issued by", issuer);
    let names = match names.is_empty() {
        true => "none".into(),
        false => names.join(", "),
    };
    report.more("  for", &names);
    report.more("  valid", &format_args!("from {not_before} to {not_after}"));
    match *days_left {
        Some(..0) => report.more("", &"it has EXPIRED"),
        Some(days @ ..SOON) => report.more("", &format_args!("it expires in {days} days")),
        _ => {}
    }
    report.more("  SHA-256", fingerprint);
}

/// Makes the calls that need no session.
fn use_module(link: &Link, tokens: &mut Vec<String>, report: &mut Report<'_>) {
    let asked = ask!(link, C_GetInfo());
    match asked.and_then(|answer| result(answer.rv).map(|()| answer.info)) {
        Ok(info) => {
            let (major, minor) = (info.cryptoki_version.major(), info.cryptoki_version.minor());
            let (maker, name) = (text(&info.manufacturer_id), text(&info.library_description));
            let module = format!("{maker}, {name}; PKCS#11 {major}.{minor}");
            report.good("C_GetInfo", &module);
        }
        Err(rv) => return report.failed("C_GetInfo", &rv, Some(FILTER)),
    }
    let room = Room::Buffer(MOST_SLOTS);
    let asked = ask!(link, C_GetSlotList(Ulong(0), room));
    match asked.and_then(|answer| result(answer.rv).map(|()| answer.slots)) {
        Ok(slots) => {
            report.good("C_GetSlotList", &format_args!("{} slots", slots.len()));
            for slot in slots {
                tokens.extend(show_slot(link, slot, report));
            }
        }
        Err(rv) => return report.failed("C_GetSlotList", &rv, Some(FILTER)),
    }
    measure(link, report);
}

const FILTER: &str = "a rule of the daemon's filter.conf may forbid it, or the module fails: look at the daemon's log";

/// Describes a slot. Returns the label of its token, if it has one that is initialised.
fn show_slot(link: &Link, slot: SlotId, report: &mut Report<'_>) -> Option<String> {
    let name = format!("  slot {:#x}", slot.0);
    let asked = ask!(link, C_GetSlotInfo(slot));
    let info = match asked.and_then(|answer| result(answer.rv).map(|()| answer.info)) {
        Ok(info) => info,
        Err(rv) => {
            report.failed(&name, &format_args!("C_GetSlotInfo: {rv}"), None);
            return None;
        }
    };
    let description = text(&info.slot_description);
    if info.flags.0 & wide(CKF_TOKEN_PRESENT) == 0 {
        report.more(&name, &format_args!("no token ({description})"));
        return None;
    }
    let asked = ask!(link, C_GetTokenInfo(slot));
    match asked.and_then(|answer| result(answer.rv).map(|()| answer.info)) {
        Ok(token) => {
            report.more(&name, &token_text(&token));
            let is_initialised = token.flags.0 & wide(CKF_TOKEN_INITIALIZED) != 0;
            is_initialised.then(|| text(&token.label))
        }
        Err(rv) => {
            report.failed(&name, &format_args!("C_GetTokenInfo: {rv}"), None);
            None
        }
    }
}

fn token_text(token: &TokenInfo) -> String {
    let (label, model) = (text(&token.label), text(&token.model));
    let serial = text(&token.serial_number);
    let mut told = format!("token {label:?}, {model}, serial number {serial}");
    let is_set = |flag| token.flags.0 & wide(flag) != 0;
    if !is_set(CKF_TOKEN_INITIALIZED) {
        // The other flags mean nothing then.
        return format!("a token that is not initialised, {model}");
    }
    for (flag, is_told_if, what) in TOKEN_FLAGS {
        if is_set(flag) == is_told_if {
            told += &format!("; {what}");
        }
    }
    told
}

/// Measures how long a call takes that goes to the module and back.
fn measure(link: &Link, report: &mut Report<'_>) {
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < CALLS && start.elapsed() < MEASURED {
        let begun = Instant::now();
        let asked = ask!(link, C_GetInfo());
        if let Err(rv) = asked.and_then(|answer| result(answer.rv)) {
            return report.failed("time of a call", &rv, Some(FILTER));
        }
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let middle = times.get(times.len() / 2);
    if let (Some(fastest), Some(median)) = (times.first(), middle) {
        let count = times.len();
        let (fastest, median) = (Took(*fastest), Took(*median));
        let text = format!("C_GetInfo {count} times: fastest {fastest}, median {median}");
        report.good("time of a call", &text);
    }
}

/// Returns a text field without its padding.
fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_end_matches([' ', '\0']).to_owned()
}

/// Displays how much time has passed.
struct Since(Instant);

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "in {}", Took(self.0.elapsed()))
    }
}

/// Displays a duration in milliseconds.
struct Took(Duration);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms", self.0.as_secs_f64() * 1000.0)
    }
}
