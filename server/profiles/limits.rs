//! Enforces the limits of a client's profile: sessions, calls per second, signatures per day.
//!
//! [`ClientLimits`] stands between the gateway and the module of one client, if its profile has such limits. Which
//! functions count as signatures follows from the facts of each function (`xdr::facts`). Calls in flight and
//! connections are limited elsewhere (`parallel`, `usage`).

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use filter::witness::Refused;
use filter::{Witness, replies};
use xdr::ending::{call_that_cancels, calls_that_end};
use xdr::facts::{Family, Step};
use xdr::{Call, CkRv, Function, Reply, Room, SessionHandle};

use super::usage::{Key, Usage};
use crate::logging::{Severity, log};
use crate::open_sessions::OpenSessions;
use crate::throttle::Throttle;

/// Upper bound on the time that a call waits. Together with everything else, it is shorter than clients wait for a
/// reply.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// The size of the token bucket, as a time: a client that was silent may make all calls of one second at once.
const BURST: Duration = Duration::from_secs(1);

/// The limits of a profile for each of its clients. `None` means no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// `max_sessions`: open sessions of one connection.
    pub sessions: Option<usize>,
    /// `max_calls_per_second`: calls of one connection; further calls wait.
    pub calls_per_second: Option<u32>,
    /// `max_calls_in_flight`: calls of one connection at a time. Default `max_parallel_calls` of the service.
    pub calls_in_flight: Option<usize>,
    /// `max_signatures_per_day`: signatures of one peer with all its connections, each day in UTC.
    pub signatures_per_day: Option<u32>,
}

impl Limits {
    /// Whether a limit needs [`ClientLimits`].
    pub fn concern_calls(&self) -> bool {
        self.sessions.is_some()
            || self.calls_per_second.is_some()
            || self.signatures_per_day.is_some()
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: Option<usize>| value.map(|value| value.to_string());
        let limits = [
            ("max_sessions", text(self.sessions)),
            (
                "max_calls_per_second",
                self.calls_per_second.map(|it| it.to_string()),
            ),
            ("max_calls_in_flight", text(self.calls_in_flight)),
            (
                "max_signatures_per_day",
                self.signatures_per_day.map(|it| it.to_string()),
            ),
        ];
        let limits = limits
            .into_iter()
            .filter_map(|(name, limit)| Some(format!("{name} {}", limit?)));
        f.write_str(&limits.collect::<Vec<_>>().join(", "))
    }
}

/// Applies the limits to one client.
pub struct ClientLimits {
    limits: Limits,
    usage: Usage,
    /// The key of the client's peer and profile.
    key: Key,
    /// The names of the client and of its profile, for the log.
    client: String,
    sessions: Sessions,
    rate: Mutex<Rate>,
    /// For the messages about each limit.
    throttles: [Mutex<Throttle>; 3],
}

/// A limit that a call exceeds.
struct Over {
    /// Its name in the profile.
    limit: &'static str,
    /// The CK_RV that the client gets.
    rv: CkRv,
}

/// The sessions of a client.
#[derive(Default)]
struct Sessions {
    open: OpenSessions,
    /// The number of C_OpenSession calls in flight.
    opening: Mutex<usize>,
}

/// The place of a session that is being opened, until it counts as open.
struct Opening<'a>(&'a Sessions);

impl Opening<'_> {
    /// Gives the place back at the moment in which the session counts as open, if it was opened.
    fn end(self, count: impl FnOnce()) {
        let mut opening = locked(&self.0.opening);
        count();
        *opening = opening.saturating_sub(1);
        drop(opening);
        std::mem::forget(self);
    }
}

/// The call has panicked.
impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let mut opening = locked(&self.0.opening);
        *opening = opening.saturating_sub(1);
    }
}

/// A token bucket, stored as the time at which it will be full.
#[derive(Default)]
struct Rate(Option<Instant>);

impl Rate {
    /// Takes a token, of which there are `most` per second. Returns how long the call has to wait for it. If that is
    /// too long, takes no token and returns `None`.
    fn take(&mut self, most: u32, now: Instant) -> Option<Duration> {
        let interval = BURST / most.max(1);
        let full = self.0.map_or(now, |full| full.max(now)) + interval;
        let wait = full.saturating_duration_since(now + BURST);
        (wait <= LONGEST_WAIT).then(|| {
            self.0 = Some(full);
            wait
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientLimits {
    /// Creates the limits of a client of this name, whose signatures are counted for `key`.
    pub fn new(
        limits: Limits,
        usage: Usage,
        key: Key,
        client: &str,
        profile: &str,
    ) -> ClientLimits {
        ClientLimits {
            limits,
            usage,
            key,
            client: format!("client {client}, profile {profile}"),
            sessions: Sessions::default(),
            rate: Mutex::default(),
            throttles: Default::default(),
        }
    }

    /// Executes a call with `execute`, as soon as the limits allow it. If they do not, refuses the call and tells the
    /// witness.
    pub fn call(
        &self,
        witness: Option<&dyn Witness>,
        call: Call<'_>,
        execute: impl Fn(Call<'_>) -> Reply,
    ) -> Reply {
        let (function, session) = (call.function(), call.session());
        let held = self.hold(call, &execute);
        held.unwrap_or_else(|Over { limit, rv }| {
            // Only for this limit: refused calls over the rate must not cause more calls.
            if limit == SIGNATURES && function.may_sign() {
                end_operation(function, session, execute);
            }
            if let Some(witness) = witness {
                witness.refused(&Refused {
                    function,
                    rv,
                    rule: None,
                    limit: Some(limit),
                });
            }
            replies::refused(function, rv)
        })
    }

    fn hold<'a>(
        &self,
        call: Call<'a>,
        execute: impl FnOnce(Call<'a>) -> Reply,
    ) -> Result<Reply, Over> {
        let function = call.function();
        if let Some(most) = self.limits.calls_per_second {
            self.wait(function, most)?;
        }
        if let Some(most) = self.limits.signatures_per_day {
            if function.may_sign() {
                return self.sign(call, most, execute);
            }
            if begins_signing(function) && self.usage.used(self.key, today()) >= most {
                return Err(self.over_quota(function, most));
            }
        }
        match self.limits.sessions {
            Some(most) => self.with_sessions(call, most, execute),
            None => Ok(execute(call)),
        }
    }

    /// Waits until a call may be made, unless that takes too long. Calls that release resources never wait.
    fn wait(&self, function: Function, most: u32) -> Result<(), Over> {
        let gives_back = matches!(
            function,
            Function::C_CloseSession | Function::C_CloseAllSessions | Function::C_Finalize
        );
        if gives_back {
            return Ok(());
        }
        let wait = locked(&self.rate).take(most, Instant::now());
        let Some(wait) = wait else {
            self.warn(
                0,
                format_args!(
                    "{} refused: too many calls wait for max_calls_per_second, {most}",
                    function.name()
                ),
            );
            return Err(Over {
                limit: "max_calls_per_second",
                rv: CkRv::FUNCTION_REJECTED,
            });
        };
        thread::sleep(wait);
        Ok(())
    }

    /// Executes a call that may make a signature. It is counted before it is executed.
    fn sign<'a>(
        &self,
        call: Call<'a>,
        most: u32,
        execute: impl FnOnce(Call<'a>) -> Reply,
    ) -> Result<Reply, Over> {
        let function = call.function();
        // A query for the length makes no signature.
        if matches!(call.room(), Some(Room::Null { .. } | Room::NoLength)) {
            return Ok(execute(call));
        }
        let Some(counted) = self.usage.count(self.key, today(), most) else {
            return Err(self.over_quota(function, most));
        };
        let reply = execute(call);
        if !was_made(function, reply.rv()) {
            self.usage.give_back(&counted);
        }
        Ok(reply)
    }

    fn over_quota(&self, function: Function, most: u32) -> Over {
        self.warn(
            1,
            format_args!(
                "{} refused: max_signatures_per_day, {most}, have been made",
                function.name()
            ),
        );
        Over {
            limit: SIGNATURES,
            rv: CkRv::FUNCTION_REJECTED,
        }
    }

    fn with_sessions<'a>(
        &self,
        call: Call<'a>,
        most: usize,
        execute: impl FnOnce(Call<'a>) -> Reply,
    ) -> Result<Reply, Over> {
        let sessions = &self.sessions;
        let opening = match call.function() {
            Function::C_OpenSession => Some(self.may_open(most)?),
            _ => None,
        };
        let effect = sessions.open.before(&call);
        let reply = execute(call);
        match opening {
            Some(opening) => opening.end(|| sessions.open.after(effect, &reply)),
            None => sessions.open.after(effect, &reply),
        }
        Ok(reply)
    }

    /// Takes a place for a session that is about to be opened.
    fn may_open(&self, most: usize) -> Result<Opening<'_>, Over> {
        let mut opening = locked(&self.sessions.opening);
        if self.sessions.open.count().saturating_add(*opening) >= most {
            drop(opening);
            self.warn(
                2,
                format_args!("C_OpenSession refused: max_sessions, {most}, are open"),
            );
            return Err(Over {
                limit: "max_sessions",
                rv: CkRv::SESSION_COUNT,
            });
        }
        *opening += 1;
        Ok(Opening(&self.sessions))
    }

    /// Logs a warning, throttled: clients can cause these messages at will.
    fn warn(&self, limit: usize, message: fmt::Arguments<'_>) {
        let throttle = self.throttles.get(limit);
        if throttle.is_some_and(|throttle| locked(throttle).passes(Instant::now())) {
            log(
                Severity::Warning,
                format_args!("{}: {message}", self.client),
            );
        }
    }
}

/// Ends the operation of a call that was refused, as a failure of the call would have done. In a module without
/// C_SessionCancel, other calls end it, and their results are wiped.
fn end_operation(
    function: Function,
    session: Option<SessionHandle>,
    execute: impl Fn(Call<'_>) -> Reply,
) {
    let Some(session) = session else {
        return;
    };
    let cancelling = call_that_cancels(function, session);
    if cancelling.is_some_and(|call| execute(call).rv().is_ok()) {
        return;
    }
    for call in calls_that_end(function, session, Room::Unbounded) {
        execute(call).wipe();
    }
}

/// The limit whose refusal ends the operation.
const SIGNATURES: &str = "max_signatures_per_day";

/// Whether a call that returned this CK_RV counts. A failed decryption or unwrapping counts, because how it fails may
/// reveal something about the result of a raw decryption. With enough such failures a signature can be computed.
fn was_made(function: Function, rv: CkRv) -> bool {
    let is_of = |family| function.facts().is_of(family);
    let signs = is_of(Family::Sign) || is_of(Family::SignRecover);
    rv.is_ok() || !signs && rv != CkRv::BUFFER_TOO_SMALL
}

/// Whether a function begins an operation that may end in a signature.
fn begins_signing(function: Function) -> bool {
    let facts = function.facts();
    let families = Function::ALL.iter().filter(|other| other.may_sign());
    let mut families = families.flat_map(|other| other.facts().families);
    facts.step == Some(Step::Init) && families.any(|family| facts.is_of(*family))
}

/// Days since 1970, in UTC.
fn today() -> u32 {
    const DAY: u64 = 24 * 60 * 60;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let days = now.map_or(0, |now| now.as_secs() / DAY);
    u32::try_from(days).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::counts::{Counts, Table};
    use xdr::{Cryptoki, Flags, Input, SessionResult, SlotId, UserType};

    use super::*;

    /// A module that opens sessions with growing numbers, and fails where it is told to.
    struct Module {
        opened: Mutex<u64>,
        fails: Mutex<CkRv>,
        /// The functions that were called.
        called: Mutex<Vec<Function>>,
        /// Whether it has the functions of PKCS#11 3.0.
        is_new: bool,
    }

    impl Cryptoki for Module {
        fn call(&self, call: Call<'_>) -> Reply {
            let function = call.function();
            let rv = *locked(&self.fails);
            locked(&self.called).push(function);
            if function == Function::C_SessionCancel && !self.is_new {
                return Reply::only(function, CkRv::FUNCTION_NOT_SUPPORTED);
            }
            if function == Function::C_OpenSession && rv.is_ok() {
                let mut opened = locked(&self.opened);
                *opened += 1;
                let session = SessionHandle(*opened);
                return Reply::C_OpenSession(SessionResult { rv, session });
            }
            Reply::only(function, rv)
        }
    }

    struct Limited {
        limits: ClientLimits,
        module: Module,
        room: Cell<Room>,
    }

    impl Limited {
        fn by(limits: Limits) -> Limited {
            let counts = Counts::new(Table::Signatures).unwrap().0;
            let usage = Usage::new(1, counts).unwrap();
            let key = usage.key(&"peer");
            Limited {
                limits: ClientLimits::new(limits, usage, key, "client", "profile"),
                module: Module {
                    opened: Mutex::default(),
                    fails: Mutex::new(CkRv::OK),
                    called: Mutex::default(),
                    is_new: false,
                },
                room: Cell::new(Room::Buffer(9)),
            }
        }

        fn call(&self, call: Call<'_>) -> CkRv {
            self.limits
                .call(None, call, |call| self.module.call(call))
                .rv()
        }

        fn open(&self, slot: u64) -> CkRv {
            self.call(Call::C_OpenSession(SlotId(slot), Flags(4), false))
        }

        fn sign(&self) -> CkRv {
            let session = SessionHandle(1);
            self.call(Call::C_Sign(session, Input::Bytes(b"x"), self.room.get()))
        }
    }

    #[test]
    fn sessions_are_counted_until_they_are_closed() {
        let client = Limited::by(Limits {
            sessions: Some(2),
            ..Limits::default()
        });
        let full = || assert_eq!(client.open(1), CkRv::SESSION_COUNT);
        assert!(client.open(1).is_ok() && client.open(2).is_ok());
        full();
        assert!(client.call(Call::C_CloseSession(SessionHandle(1))).is_ok());
        *locked(&client.module.fails) = CkRv::TOKEN_NOT_PRESENT;
        assert_eq!(client.open(1), CkRv::TOKEN_NOT_PRESENT);
        *locked(&client.module.fails) = CkRv::OK;
        assert!(client.open(1).is_ok());
        full();
        // One session is of slot 2.
        assert!(client.call(Call::C_CloseAllSessions(SlotId(2))).is_ok());
        assert!(client.open(1).is_ok());
        full();
        *locked(&client.module.fails) = CkRv::SESSION_HANDLE_INVALID;
        client.call(Call::C_Logout(SessionHandle(3)));
        *locked(&client.module.fails) = CkRv::OK;
        assert!(client.open(1).is_ok());
        full();
        assert!(client.call(Call::C_Finalize()).is_ok());
        assert!(client.open(1).is_ok() && client.open(1).is_ok());
        full();
    }

    /// Records the limits that refuse calls.
    #[derive(Default)]
    struct Noted(Mutex<Vec<(Function, Option<&'static str>)>>);

    impl Witness for Noted {
        fn refused(&self, refused: &Refused<'_>) {
            locked(&self.0).push((refused.function, refused.limit));
        }
    }

    #[test]
    fn a_witness_is_told_which_limit_refused_a_call() {
        let client = Limited::by(Limits {
            sessions: Some(0),
            calls_per_second: Some(9),
            signatures_per_day: Some(0),
            ..Limits::default()
        });
        let noted = Noted::default();
        let session = SessionHandle(1);
        let open = || Call::C_OpenSession(SlotId(1), Flags(4), false);
        let call = |call| {
            let module = |call: Call<'_>| client.module.call(call);
            client.limits.call(Some(&noted), call, module).rv()
        };
        assert_eq!(call(open()), CkRv::SESSION_COUNT);
        let sign = Call::C_Sign(session, Input::Bytes(b"x"), Room::Buffer(9));
        assert_eq!(call(sign), CkRv::FUNCTION_REJECTED);
        assert!(call(Call::C_Logout(session)).is_ok());
        *locked(&client.limits.rate) = Rate(Some(Instant::now() + 2 * LONGEST_WAIT));
        assert_eq!(call(open()), CkRv::FUNCTION_REJECTED);
        let expected = [
            (Function::C_OpenSession, Some("max_sessions")),
            (Function::C_Sign, Some("max_signatures_per_day")),
            (Function::C_OpenSession, Some("max_calls_per_second")),
        ];
        assert_eq!(*locked(&noted.0), expected);
    }

    #[test]
    fn signatures_count_when_they_are_made_and_no_question_does() {
        let client = Limited::by(Limits {
            signatures_per_day: Some(3),
            ..Limits::default()
        });
        client.room.set(Room::QUESTION);
        assert!(client.sign().is_ok());
        client.room.set(Room::Buffer(9));
        *locked(&client.module.fails) = CkRv::BUFFER_TOO_SMALL;
        for _ in 0..5 {
            assert_eq!(client.sign(), CkRv::BUFFER_TOO_SMALL);
        }
        let session = SessionHandle(1);
        let decrypt = || Call::C_Decrypt(session, Input::Bytes(b"x"), Room::Unbounded);
        assert_eq!(client.call(decrypt()), CkRv::BUFFER_TOO_SMALL);
        // The answer of a padding oracle.
        *locked(&client.module.fails) = CkRv::ENCRYPTED_DATA_INVALID;
        assert_eq!(client.call(decrypt()), CkRv::ENCRYPTED_DATA_INVALID);
        assert_eq!(client.sign(), CkRv::ENCRYPTED_DATA_INVALID);
        *locked(&client.module.fails) = CkRv::OK;
        assert!(client.sign().is_ok());
        assert!(client.call(decrypt()).is_ok());
        for call in [
            decrypt(),
            Call::C_SignFinal(session, Room::Buffer(9)),
            Call::C_SignInit(session, None, xdr::ObjectHandle(1)),
        ] {
            assert_eq!(client.call(call), CkRv::FUNCTION_REJECTED);
        }
        assert_eq!(client.sign(), CkRv::FUNCTION_REJECTED);
        // All other calls go on.
        let pin = Input::Bytes(b"1");
        assert!(
            client
                .call(Call::C_Login(session, UserType(1), pin))
                .is_ok()
        );
        assert!(
            client
                .call(Call::C_VerifyInit(session, None, xdr::ObjectHandle(1)))
                .is_ok()
        );
    }

    #[test]
    fn an_operation_that_was_begun_before_the_quota_was_used_up_ends_when_it_is_refused() {
        use Function::*;
        let session = SessionHandle(1);
        let part = || Input::Bytes(b"x");
        for (is_new, call, made) in [
            (
                false,
                Call::C_Sign(session, part(), Room::Buffer(9)),
                vec![C_SessionCancel, C_SignFinal, C_Sign],
            ),
            (
                true,
                Call::C_SignFinal(session, Room::Buffer(9)),
                vec![C_SessionCancel],
            ),
            (
                false,
                Call::C_Decrypt(session, part(), Room::Buffer(9)),
                vec![C_SessionCancel, C_DecryptFinal, C_Decrypt],
            ),
        ] {
            let mut client = Limited::by(Limits {
                signatures_per_day: Some(1),
                ..Limits::default()
            });
            client.module.is_new = is_new;
            assert!(client.sign().is_ok());
            locked(&client.module.called).clear();
            // A query for the length is answered, and ends no operation.
            client.room.set(Room::QUESTION);
            assert!(client.sign().is_ok());
            assert_eq!(locked(&client.module.called).as_slice(), [C_Sign]);
            locked(&client.module.called).clear();
            assert_eq!(client.call(call), CkRv::FUNCTION_REJECTED);
            assert_eq!(*locked(&client.module.called), made);
        }
    }

    #[test]
    fn after_a_seconds_burst_calls_wait_for_their_turn() {
        let mut rate = Rate::default();
        let start = Instant::now();
        for _ in 0..4 {
            assert_eq!(rate.take(4, start), Some(Duration::ZERO));
        }
        let quarter = Duration::from_millis(250);
        assert_eq!(rate.take(4, start), Some(quarter));
        assert_eq!(rate.take(4, start), Some(2 * quarter));
        let later = start + 3 * BURST;
        for _ in 0..4 {
            assert_eq!(rate.take(4, later), Some(Duration::ZERO));
        }
        assert_eq!(rate.take(4, later), Some(quarter));
        // No call waits longer than a client waits for its reply.
        let waits = (0..200).map_while(|_| rate.take(4, later));
        assert_eq!(waits.last(), Some(LONGEST_WAIT));
        assert_eq!(rate.take(4, later), None);
        assert_eq!(rate.take(4, later + quarter), Some(LONGEST_WAIT));
    }

    #[test]
    fn what_begins_a_signature_is_refused_too() {
        let all = Function::ALL.iter().copied();
        let names: Vec<&str> = all
            .filter(|it| begins_signing(*it))
            .map(Function::name)
            .collect();
        assert_eq!(
            names,
            [
                "C_SignInit",
                "C_DecryptInit",
                "C_SignRecoverInit",
                "C_MessageDecryptInit",
                "C_MessageSignInit",
            ]
        );
    }
}
