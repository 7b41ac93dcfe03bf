//! Refuses logins of a peer that has failed too often, without asking the token.
//!
//! Calls come from the gateway and go on to the filter. A call that makes the token compare a PIN is counted before it
//! is made (`failed_logins`), and its CK_RV says whether the PIN was right. The facts of each function say whether it
//! has a PIN compared. The failures of a peer are counted over all its connections. After some failures, logins are
//! delayed; after more, they return CKR_PIN_LOCKED until the window is over. While as many logins are in progress as
//! may still fail, others wait. The log says whose logins fail, and never contains a PIN.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use filter::witness::Refused;
use filter::{Witness, replies};
use xdr::facts::{Argument, Effect};
use xdr::{Call, CkRv, Cryptoki, Function, NullPlaces, Reply, UserType};

use crate::channel::{Cause, WorkerEnd};
use crate::failed_logins::{Attempt, FailedLogins, Key, NotNow, Outcome, Target};
use crate::logging::{Severity, log};
use crate::open_sessions::{Open, OpenSessions};
use crate::sockets::Peer;

/// The delay of the first delayed login. It doubles with each further failure.
const FIRST_DELAY: Duration = Duration::from_millis(250);

/// Upper bound on the delay of a login.
const LONGEST_DELAY: Duration = Duration::from_secs(2);

/// How long the reply to a refused login is delayed.
const REFUSAL_DELAY: Duration = Duration::from_secs(1);

/// Upper bound on the time that a login waits for others of its peer. Together with all other delays, this is less than
/// the time that clients wait for a reply.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// The interval at which a waiting login checks again.
const ASKING: Duration = Duration::from_millis(20);

/// Whose failed logins are counted together.
#[derive(Clone, Debug, Hash)]
pub enum Guesser {
    /// Without TLS: the client's address, or its user on a Unix socket.
    Peer(Peer),
    /// A digest of the key, issuer and serial number of the client's certificate, and its subject for the log.
    Certificate(Vec<u8>, String),
    /// The identity of the client's pre-shared key.
    Identity(String),
}

impl fmt::Display for Guesser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Guesser::Peer(peer) => peer.fmt(f),
            Guesser::Certificate(_, subject) => write!(f, "the certificate of {subject}"),
            Guesser::Identity(identity) => write!(f, "the identity {identity}"),
        }
    }
}

/// Counts the logins of one client, and delays or refuses them.
pub struct Guard {
    logins: FailedLogins,
    key: Key,
    guesser: Guesser,
    /// The client's name, for the log.
    client: String,
    channel: Arc<WorkerEnd>,
}

impl Guard {
    /// Makes the guard of a client with this name in the log. Its logins count for `guesser`.
    pub fn new(
        logins: FailedLogins,
        guesser: Guesser,
        client: &str,
        channel: Arc<WorkerEnd>,
    ) -> Guard {
        Guard {
            key: logins.key(&guesser),
            logins,
            guesser,
            client: client.to_owned(),
            channel,
        }
    }

    /// Waits until a login may be made, and counts it. Returns `None` if it is refused, after the delay of a refusal.
    fn begin(&self, function: Function, target: Target) -> Option<Attempt> {
        let end = Instant::now() + LONGEST_WAIT;
        let left = loop {
            let now = Instant::now();
            match self.logins.begin(self.key, target, now) {
                Ok(attempt) => {
                    thread::sleep(delay(attempt.failures, self.logins.limits().failures));
                    return Some(attempt);
                }
                Err(NotNow::Busy(_)) if now < end => thread::sleep(ASKING),
                Err(NotNow::Busy(left) | NotNow::Refused(left)) => break left,
            }
        };
        let (client, name, guesser) = (&self.client, function.name(), &self.guesser);
        let seconds = left.as_secs_f32();
        self.channel.refused(
            Cause::Logins,
            Severity::Warning,
            &format!(
                "client {client}: {name} refused without asking the token: too many failed logins of {guesser}, for another {seconds:.0} s"
            ),
        );
        thread::sleep(REFUSAL_DELAY);
        None
    }

    fn settle(&self, function: Function, attempt: &Attempt, outcome: Outcome, rv: CkRv) {
        let failures = self.logins.settle(attempt, outcome);
        if outcome != Outcome::Wrong {
            return;
        }
        let (client, name, guesser) = (&self.client, function.name(), &self.guesser);
        let limits = self.logins.limits();
        let (most, seconds) = (limits.failures, limits.window.as_secs_f32());
        log(
            Severity::Warning,
            format_args!(
                "client {client}: {name} failed with {rv}, {failures} of {most} failed logins of {guesser} within {seconds} s"
            ),
        );
        if failures >= most {
            log(
                Severity::Alert,
                format_args!(
                    "client {client}: {failures} failed logins of {guesser}; all others are refused for up to {seconds} s"
                ),
            );
        }
    }
}

/// Returns how long a login is delayed after this many failures.
fn delay(failures: usize, most: usize) -> Duration {
    let Some(late) = failures.checked_sub(most.div_ceil(2)) else {
        return Duration::ZERO;
    };
    let doubled = u32::try_from(late).map_or(u32::MAX, |late| 2_u32.saturating_pow(late));
    FIRST_DELAY.saturating_mul(doubled).min(LONGEST_DELAY)
}

/// Returns what a CK_RV says about the PIN that the token compares. If the call also sets something, such as a new PIN,
/// only CKR_PIN_INCORRECT is certainly about the compared PIN.
fn outcome(function: Function, rv: CkRv) -> Outcome {
    match rv {
        CkRv::OK => Outcome::Right,
        CkRv::PIN_INCORRECT => Outcome::Wrong,
        CkRv::PIN_INVALID | CkRv::PIN_LEN_RANGE if function.facts().has(Effect::LogsIn) => {
            Outcome::Wrong
        }
        _ => Outcome::Neither,
    }
}

/// Applies the limit to the calls of a module.
pub struct LoginLimit<N> {
    inner: N,
    /// `None` if there is no limit.
    guard: Option<Arc<Guard>>,
    /// The file of the module: a client can ask for it by several names.
    module: PathBuf,
    sessions: OpenSessions,
}

impl<N: Cryptoki> LoginLimit<N> {
    /// Puts the limit in front of `inner`, for a module in this file.
    pub fn new(inner: N, guard: Option<Arc<Guard>>, module: &Path) -> LoginLimit<N> {
        LoginLimit {
            inner,
            guard,
            module: module.to_owned(),
            sessions: OpenSessions::default(),
        }
    }

    /// Returns what the PIN of a call is for: a token, and its security officer or its user. All sessions that are not
    /// open have one target.
    fn target(&self, guard: &Guard, call: &Call<'_>, session: Option<Open>) -> Target {
        const OFFICER: UserType = UserType(0);
        const USER: UserType = UserType(1);
        const CONTEXT_SPECIFIC: UserType = UserType(2);
        let slot = match call {
            Call::C_InitToken(slot, ..) => Some(*slot),
            _ => session.map(|session| session.slot),
        };
        let user = call.arguments().find_map(|argument| match argument {
            Argument::User(CONTEXT_SPECIFIC) => Some(USER),
            Argument::User(user) => Some(user),
            _ => None,
        });
        let user = user.unwrap_or(match call {
            Call::C_InitToken(..) => OFFICER,
            _ => USER,
        });
        let target = (&self.module, slot.map(|slot| slot.0), user.0);
        guard.logins.target(&target)
    }

    /// Returns the layer behind the limit.
    pub fn inner(&self) -> &N {
        &self.inner
    }

    fn login(
        &self,
        guard: &Guard,
        witness: Option<&dyn Witness>,
        call: Call<'_>,
        execute: impl FnOnce(&N, Call<'_>) -> Reply,
    ) -> Reply {
        let function = call.function();
        let handle = call.session();
        let opened = || handle.and_then(|handle| self.sessions.get(handle));
        let session = opened();
        let target = self.target(guard, &call, session);
        let Some(attempt) = guard.begin(function, target) else {
            if let Some(witness) = witness {
                witness.refused(&Refused {
                    function,
                    rv: CkRv::PIN_LOCKED,
                    rule: None,
                    limit: Some("max_failed_logins"),
                });
            }
            return replies::refused(function, CkRv::PIN_LOCKED);
        };
        let reply = execute(&self.inner, call);
        let outcome = match outcome(function, reply.rv()) {
            // The PIN of one token says nothing about guesses at another one. While this thread was in the call, or
            // waited for its turn, others may have closed the session and opened one with the same handle.
            Outcome::Right if handle.is_some() && (session.is_none() || opened() != session) => {
                Outcome::Neither
            }
            outcome => outcome,
        };
        guard.settle(function, &attempt, outcome, reply.rv());
        reply
    }
}

impl<N: Cryptoki> LoginLimit<N> {
    /// Passes a call on with the given function, or refuses it and tells the witness.
    pub fn call_witnessed(
        &self,
        witness: Option<&dyn Witness>,
        call: Call<'_>,
        execute: impl FnOnce(&N, Call<'_>) -> Reply,
    ) -> Reply {
        let Some(guard) = &self.guard else {
            return execute(&self.inner, call);
        };
        if call.function().compares_pin() {
            return self.login(guard, witness, call, execute);
        }
        match call {
            Call::C_OpenSession(..)
            | Call::C_CloseSession(_)
            | Call::C_CloseAllSessions(_)
            | Call::C_Finalize() => {
                let effect = self.sessions.before(&call);
                let reply = execute(&self.inner, call);
                self.sessions.after(effect, &reply);
                reply
            }
            call => execute(&self.inner, call),
        }
    }
}

impl<N: Cryptoki> Cryptoki for LoginLimit<N> {
    fn call(&self, call: Call<'_>) -> Reply {
        self.call_with_nulls(call, NullPlaces::NONE)
    }

    fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        self.call_witnessed(None, call, |inner, call| inner.call_with_nulls(call, nulls))
    }
}

#[cfg(test)]
mod tests {
    use xdr::{Flags, Input, SessionHandle, SessionResult, SlotId};

    use super::*;
    use crate::channel::{self, Message};
    use crate::counts::{Counts, Table};
    use crate::failed_logins::Limits;

    /// A token with one right PIN.
    struct Token;

    const RIGHT: &[u8] = b"1234";

    impl Cryptoki for Token {
        fn call(&self, call: Call<'_>) -> Reply {
            let function = call.function();
            let right = |pin: Input<'_>| match pin {
                Input::Bytes(RIGHT) => CkRv::OK,
                Input::Bytes(pin) if pin.len() < 4 => CkRv::PIN_LEN_RANGE,
                _ => CkRv::PIN_INCORRECT,
            };
            let rv = match call {
                Call::C_OpenSession(slot, ..) => {
                    return Reply::C_OpenSession(SessionResult {
                        rv: CkRv::OK,
                        session: SessionHandle(slot.0),
                    });
                }
                Call::C_Login(_, _, pin) | Call::C_LoginUser(_, _, pin, _) => right(pin),
                Call::C_SetPIN(_, old, new) => match right(old) {
                    CkRv::OK => match right(new) {
                        CkRv::PIN_LEN_RANGE => CkRv::PIN_LEN_RANGE,
                        _ => CkRv::OK,
                    },
                    rv => rv,
                },
                Call::C_InitToken(_, pin, _) => right(pin),
                _ => CkRv::OK,
            };
            Reply::only(function, rv)
        }
    }

    struct Client {
        limit: LoginLimit<Token>,
        controller: channel::ControllerEnd,
    }

    impl Client {
        fn of(logins: &FailedLogins, guesser: Guesser) -> Client {
            let (controller, worker) = channel::pair().unwrap();
            let guard = Guard::new(logins.clone(), guesser, "client", Arc::new(worker));
            let limit = LoginLimit::new(Token, Some(Arc::new(guard)), Path::new("module"));
            for slot in [1, 2] {
                let opened = limit.call(Call::C_OpenSession(SlotId(slot), Flags(6), false));
                assert!(opened.rv().is_ok());
            }
            Client { limit, controller }
        }

        fn login(&self, session: u64, user: u64, pin: &[u8]) -> CkRv {
            let call = Call::C_Login(SessionHandle(session), UserType(user), Input::Bytes(pin));
            self.limit.call(call).rv()
        }
    }

    fn logins(failures: usize) -> FailedLogins {
        let window = Duration::from_secs(60);
        let counts = Counts::new(Table::FailedLogins).unwrap().0;
        FailedLogins::new(Limits { failures, window }, counts)
    }

    fn identity(name: &str) -> Guesser {
        Guesser::Identity(name.into())
    }

    #[test]
    fn each_function_that_has_a_pin_compared_counts() {
        let session = SessionHandle(1);
        let (wrong, right) = (Input::Bytes(b"4321"), Input::Bytes(RIGHT));
        let calls = [
            Call::C_Login(session, UserType(1), wrong),
            Call::C_Login(session, UserType(2), Input::Bytes(b"1")),
            Call::C_LoginUser(session, UserType(1), wrong, Input::Bytes(b"name")),
            Call::C_SetPIN(session, wrong, right),
            Call::C_InitToken(SlotId(1), wrong, Input::Bytes(&[b' '; 32])),
        ];
        // In parallel, because each refusal is delayed.
        thread::scope(|scope| {
            for (number, call) in calls.iter().enumerate() {
                let next = &calls[(number + 1) % calls.len()];
                scope.spawn(move || {
                    let client = Client::of(&logins(1), identity("one"));
                    assert_ne!(client.limit.call(call.clone()).rv(), CkRv::OK);
                    assert_eq!(client.limit.call(next.clone()).rv(), CkRv::PIN_LOCKED);
                    // Nothing else is refused.
                    let set = Call::C_InitPIN(session, wrong);
                    assert!(client.limit.call(set).rv().is_ok());
                    let told = client.controller.next_message().unwrap();
                    assert!(matches!(told, Some(Message::Refusal(Cause::Logins, _))));
                    assert!(client.controller.next_message().unwrap().is_none());
                });
            }
        });
    }

    #[test]
    fn a_new_pin_that_is_too_short_is_no_guess() {
        let client = Client::of(&logins(1), identity("one"));
        let (right, short) = (Input::Bytes(RIGHT), Input::Bytes(b"1"));
        for _ in 0..3 {
            let call = Call::C_SetPIN(SessionHandle(1), right, short);
            assert_eq!(client.limit.call(call).rv(), CkRv::PIN_LEN_RANGE);
        }
        assert!(client.login(1, 1, RIGHT).is_ok());
    }

    /// Two threads can make a session known to the module before it is known here.
    #[test]
    fn a_right_pin_in_an_unknown_session_clears_nothing() {
        let logins = logins(2);
        let client = Client::of(&logins, identity("one"));
        assert_eq!(client.login(7, 1, b"4321"), CkRv::PIN_INCORRECT);
        assert!(client.login(8, 1, RIGHT).is_ok());
        assert!(client.login(1, 1, RIGHT).is_ok());
        assert_eq!(client.login(9, 1, b"4321"), CkRv::PIN_INCORRECT);
        assert_eq!(client.login(7, 1, RIGHT), CkRv::PIN_LOCKED);
    }

    #[test]
    fn a_right_pin_clears_what_was_failed_for_its_token_and_user() {
        let logins = logins(4);
        let clients = [0, 1].map(|_| Client::of(&logins, identity("one")));
        for _ in 0..3 {
            for client in &clients {
                assert_eq!(client.login(1, 1, b"4321"), CkRv::PIN_INCORRECT);
            }
            // The other connection of the same peer.
            assert!(clients[1].login(1, 2, RIGHT).is_ok());
        }
        for (session, user) in [(1, 0), (2, 1), (2, 0)] {
            assert_eq!(clients[0].login(1, 1, b"4321"), CkRv::PIN_INCORRECT);
            assert!(clients[0].login(session, user, RIGHT).is_ok());
        }
        assert_eq!(clients[0].login(1, 1, b"4321"), CkRv::PIN_INCORRECT);
        assert_eq!(clients[1].login(1, 1, RIGHT), CkRv::PIN_LOCKED);
        // Another peer is not affected.
        let other = Client::of(&logins, identity("two"));
        assert!(other.login(1, 1, RIGHT).is_ok());
    }

    #[test]
    fn the_later_logins_are_delayed() {
        let delays = |most| (0..most).map(move |failures| delay(failures, most).as_millis());
        let ten: Vec<u128> = delays(10).collect();
        assert_eq!(ten, [0, 0, 0, 0, 0, 250, 500, 1000, 2000, 2000]);
        assert_eq!(delays(1).collect::<Vec<_>>(), [0]);
        assert_eq!(delays(3).collect::<Vec<_>>(), [0, 0, 250]);
        assert_eq!(delays(200).max(), Some(2000));
    }
}
