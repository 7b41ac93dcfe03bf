//! Lets an application survive the loss of its connection, or of the daemon (`recover = true`).
//!
//! The application gets handles that are made here (`tables`); in a call they are replaced with those of the module.
//! When a connection is lost, the next call connects again, to the first daemon that answers. The rest is restored when
//! it is used. A session is opened again (`restoring`), with the same token (`slots`). The user is logged in if the PIN
//! was kept (`logins`). An object is searched for by its known attributes (`objects`, `descriptions`, `counterparts`).
//! An active operation and a session object cannot be restored: the first call that needs one returns CKR_DEVICE_ERROR,
//! once.
//!
//! A call that failed during transmission may have been executed. It is repeated only if that does no harm: a
//! signature, a login, and a call that makes or changes an object are never repeated. A call waits for a new connection
//! no longer than its timeout. No lock is held during a call; if several threads need the same thing restored, one does
//! it.

mod asking;
mod counterparts;
mod descriptions;
mod learning;
mod logins;
mod objects;
mod restoring;
mod slots;
mod tables;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use transport::Deadline;
use xdr::facts::{Effect, Step};
use xdr::{Call, CkRv, Cryptoki, Flags, Function, NullPlaces, RV_LEAVING, Reply, SessionHandle};

use crate::InitializeError;
use crate::advice::Advice;
use crate::connection::{Connection, Notify, is_calling_back};
use crate::landing::Landing;
use crate::link::{DistantModule, Link};
use crate::notifications::Notifications;
use crate::remote::Remote;
use crate::socket::is_resolving;

use tables::Tables;

/// The upper bound on the attempts at one call: a daemon that ends each connection must not keep a thread busy for
/// ever.
const ATTEMPTS: usize = 3;

/// The shortest and the longest pause between two attempts to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// Connects until the deadline. Asks for a `Notify` for each attempt.
pub(crate) type Connect<R> =
    Box<dyn Fn(Deadline, &dyn Fn() -> Notify) -> Result<Reached<R>, InitializeError> + Send + Sync>;

/// A daemon that was reached.
pub(crate) struct Reached<R> {
    pub link: Link<R>,
    /// Its position in the list of daemons of the settings.
    pub daemon: usize,
}

/// A module that may be behind different daemons one after the other.
pub(crate) struct Recovery<R = Connection> {
    connect: Connect<R>,
    timeout: Duration,
    keep_pin: bool,
    interfaces: Flags,
    shared: Arc<Shared<R>>,
    notifications: Arc<Notifications>,
}

struct Shared<R> {
    state: Mutex<State<R>>,
    /// Signalled when a connection was made or given up, when something was restored, and by C_Finalize.
    changed: Condvar,
}

struct State<R> {
    link: Option<Arc<Link<R>>>,
    /// The number of the present connection; what the tables know from an earlier one is out of date.
    generation: u64,
    /// The position of the last connection's daemon in the settings.
    daemon: usize,
    /// Whether a thread is connecting.
    connecting: bool,
    /// Whether a thread is restoring something.
    restoring: bool,
    finished: bool,
    /// The last connection on which C_GetAttributeValue was found to be forbidden.
    hidden_since: Option<u64>,
    /// The last connection that was given up because a token was missing.
    given_up_for_token: Option<u64>,
    tables: Tables,
}

/// The connection on which a call is sent.
struct Live<R> {
    link: Arc<Link<R>>,
    generation: u64,
    daemon: usize,
    /// The deadline for the library's own calls that serve this call.
    deadline: Deadline,
}

/// Why a call cannot be sent.
enum Trouble {
    /// The connection was lost.
    Lost,
    /// Another thread has given the connection up. Nothing was sent on it.
    GivenUp,
    /// The daemon is about to close it.
    Leaving,
    /// The call returns this CK_RV.
    Refused(CkRv),
}

impl From<CkRv> for Trouble {
    fn from(rv: CkRv) -> Trouble {
        Trouble::Refused(rv)
    }
}

/// Returns whether a call that may have been executed can be repeated without harm.
fn may_be_repeated(function: Function) -> bool {
    let facts = function.facts();
    let has_effects = [Effect::LogsIn, Effect::Writes, Effect::Administers]
        .into_iter()
        .any(|effect| facts.has(effect));
    matches!(facts.step, None | Some(Step::Init)) && !has_effects
}

/// Returns whether a call continues or ends an operation of its session.
fn needs_operation(function: Function) -> bool {
    matches!(function.facts().step, Some(Step::Update | Step::End))
}

impl<R> Shared<R> {
    fn state(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change until the deadline, then returns CKR_DEVICE_ERROR. If a callback of the application makes the
    /// call, or code that resolves a host name, does not wait: the call in which that runs may be the one that would
    /// have to end first.
    fn wait<'s>(
        &self,
        state: MutexGuard<'s, State<R>>,
        deadline: Deadline,
    ) -> Result<MutexGuard<'s, State<R>>, CkRv> {
        if may_not_wait() {
            return Err(CkRv::FUNCTION_FAILED);
        }
        let time = deadline.remaining().map_err(|_| CkRv::DEVICE_ERROR)?;
        let waited = self.changed.wait_timeout(state, time);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.finished {
            true => Err(CkRv::CRYPTOKI_NOT_INITIALIZED),
            false => Ok(state),
        }
    }
}

/// Whether this thread is in the middle of another call that others may be waiting for.
fn may_not_wait() -> bool {
    is_calling_back() || is_resolving()
}

/// Sets a flag of the state for as long as this lives.
struct Turn<'a, R> {
    shared: &'a Shared<R>,
    flag: fn(&mut State<R>) -> &mut bool,
}

impl<R> Drop for Turn<'_, R> {
    fn drop(&mut self) {
        *(self.flag)(&mut self.shared.state()) = false;
        self.shared.changed.notify_all();
    }
}

impl<R: Remote + 'static> Recovery<R> {
    /// Connects for the first time. `timeout` limits each call, and each reconnection.
    pub fn start(
        connect: Connect<R>,
        timeout: Duration,
        keep_pin: bool,
        notifications: Arc<Notifications>,
    ) -> Result<Recovery<R>, InitializeError> {
        let mut recovery = Recovery {
            connect,
            timeout,
            keep_pin,
            interfaces: Flags::default(),
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    link: None,
                    generation: 0,
                    daemon: 0,
                    connecting: false,
                    restoring: false,
                    finished: false,
                    hidden_since: None,
                    given_up_for_token: None,
                    tables: Tables::default(),
                }),
                changed: Condvar::new(),
            }),
            notifications,
        };
        let reached = recovery.reach(1, Deadline::after(timeout))?;
        recovery.interfaces = reached.link.interfaces();
        recovery.shared.state().connected(reached);
        Ok(recovery)
    }

    /// Makes the connection with this number.
    fn reach(&self, generation: u64, deadline: Deadline) -> Result<Reached<R>, InitializeError> {
        let notify = || -> Notify {
            let shared = Arc::downgrade(&self.shared);
            let notifications = self.notifications.clone();
            Box::new(move |real, event| {
                let session = application_session(&shared, generation, real);
                session.map_or(CkRv::OK, |it| notifications.deliver(it, event))
            })
        };
        (self.connect)(deadline, &notify)
    }

    /// Returns the connection. Connects again if it was lost. `function` is the call that needs it.
    fn live(&self, function: Function, deadline: Deadline) -> Result<Live<R>, CkRv> {
        let mut state = self.shared.state();
        loop {
            if state.finished {
                return Err(CkRv::CRYPTOKI_NOT_INITIALIZED);
            }
            if let Some(link) = &state.link {
                // Returns whether a call that may not be repeated would be sent in vain.
                let has_ended =
                    || !may_be_repeated(function) && !needs_operation(function) && link.has_ended();
                if !link.is_lost() && !has_ended() {
                    return Ok(Live {
                        link: link.clone(),
                        generation: state.generation,
                        daemon: state.daemon,
                        deadline,
                    });
                }
                log::warn!(
                    "{}: the connection was lost; connecting again",
                    function.name()
                );
                state.give_up();
            }
            if state.connecting {
                state = self.shared.wait(state, deadline)?;
                continue;
            }
            state.connecting = true;
            let generation = state.generation + 1;
            drop(state);
            let turn = Turn {
                shared: &self.shared,
                flag: |state| &mut state.connecting,
            };
            let reached = self.reach_patiently(function, generation, deadline)?;
            state = self.shared.state();
            if state.finished {
                drop(state);
                // The module is being finalised, so its answer does not matter.
                let _ = reached.link.finish();
                return Err(CkRv::CRYPTOKI_NOT_INITIALIZED);
            }
            state.connected(reached);
            drop(state);
            drop(turn);
            state = self.shared.state();
        }
    }

    /// Connects, and retries until a daemon can be reached.
    fn reach_patiently(
        &self,
        function: Function,
        generation: u64,
        deadline: Deadline,
    ) -> Result<Reached<R>, CkRv> {
        let mut pause = PAUSES.0;
        loop {
            let error = match self.reach(generation, deadline) {
                Ok(reached) => return Ok(reached),
                Err(error) => error,
            };
            let time = deadline.remaining().unwrap_or_default();
            if !error.may_pass() || time <= pause {
                let (name, rv) = (function.name(), CkRv::DEVICE_ERROR);
                let advice = Advice(error.advice());
                log::error!("{name}: {error}; returning {rv}{advice}");
                return Err(rv);
            }
            log::debug!("{}: {error}; trying again", function.name());
            let state = self.shared.state();
            let waited = self
                .shared
                .changed
                .wait_timeout_while(state, pause, |it| !it.finished);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.finished {
                return Err(CkRv::CRYPTOKI_NOT_INITIALIZED);
            }
            pause = (2 * pause).min(PAUSES.1);
        }
    }

    /// Waits until the daemon closes the connection, which it does when the operations of other threads are over.
    fn wait_for_end(&self, live: &Live<R>, deadline: Deadline) -> Result<(), CkRv> {
        // These attempts are not counted, so a daemon that is always about to close must not keep a thread busy.
        deadline.remaining().map_err(|_| CkRv::DEVICE_ERROR)?;
        if may_not_wait() {
            return Err(CkRv::FUNCTION_FAILED); // as in `Shared::wait`
        }
        let mut state = self.shared.state();
        while state.generation == live.generation && state.link.is_some() {
            if live.link.has_ended() {
                log::info!(
                    "the daemon is draining and has closed the connection; connecting again"
                );
                state.give_up();
                return Ok(());
            }
            let time = deadline.remaining().map_err(|_| CkRv::DEVICE_ERROR)?;
            let waited = self.shared.changed.wait_timeout(state, time.min(PAUSES.0));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.finished {
                return Err(CkRv::CRYPTOKI_NOT_INITIALIZED);
            }
        }
        Ok(())
    }

    /// Has a call made by `send`, with the module's handles, and repeats it as often as is necessary and allowed.
    fn answer(
        &self,
        call: &Call<'_>,
        nulls: NullPlaces,
        mut send: impl FnMut(&Link<R>, Call<'_>) -> Reply,
    ) -> Result<Reply, CkRv> {
        let function = call.function();
        let mut deadline = Deadline::after(self.timeout);
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            attempts += 1;
            if let Some(rv) = self.shared.state().answer_alone(call) {
                return Ok(Reply::only(function, rv));
            }
            let mut live = self.live(function, deadline).inspect_err(|_| {
                if needs_operation(function) {
                    self.shared.state().tables.interrupted(call);
                }
            })?;
            let real = match self.with_real_handles(&live, call, deadline) {
                Ok(real) => real,
                Err(Trouble::Lost) => continue,
                Err(Trouble::GivenUp) => {
                    deadline.remaining().map_err(|_| CkRv::DEVICE_ERROR)?;
                    attempts -= 1;
                    continue;
                }
                Err(Trouble::Leaving) => {
                    self.wait_for_end(&live, deadline)?;
                    attempts -= 1;
                    continue;
                }
                Err(Trouble::Refused(CkRv::DEVICE_REMOVED)) => {
                    return Ok(slots::answer_without_token(call));
                }
                Err(Trouble::Refused(rv)) => return Ok(Reply::only(function, rv)),
            };
            let sent = Instant::now();
            let mut reply = send(&live.link, real);
            if reply.rv() == RV_LEAVING {
                self.wait_for_end(&live, deadline)?;
                attempts -= 1; // the call was not made
                continue;
            }
            if reply.rv() == CkRv::DEVICE_ERROR && live.link.is_lost() {
                if matches!(function, Function::C_Logout | Function::C_FindObjectsFinal) {
                    // What these functions end has already ended with the connection.
                    self.shared.state().tables.interrupted(call);
                    return Ok(Reply::only(function, CkRv::OK));
                }
                if function == Function::C_WaitForSlotEvent && sent.elapsed() > PAUSES.1 {
                    // The call may have waited for long, over several connections, so its time and its attempts begin
                    // anew.
                    deadline = Deadline::after(self.timeout);
                    attempts = 1;
                }
                if may_be_repeated(function) && deadline.remaining().is_ok() {
                    continue;
                }
            } else {
                // The call may have used up its time.
                live.deadline = Deadline::after(self.timeout);
                match self.learn(&live, call, &mut reply, nulls, deadline) {
                    Ok(()) => return Ok(reply),
                    Err(Trouble::Refused(rv)) => return Ok(Reply::only(function, rv)),
                    Err(Trouble::Lost | Trouble::GivenUp | Trouble::Leaving) => {}
                }
            }
            reply.wipe();
            break;
        }
        // The application learns of the failure now, so the lost operation is not reported again.
        self.shared.state().tables.interrupted(call);
        let (name, rv) = (function.name(), CkRv::DEVICE_ERROR);
        log::error!("{name}: the connection was lost before its reply came; returning {rv}");
        Err(rv)
    }
}

impl<R: Remote> State<R> {
    fn connected(&mut self, reached: Reached<R>) {
        self.generation += 1;
        self.daemon = reached.daemon;
        self.link = Some(Arc::new(reached.link));
    }

    /// Returns whether this is the present connection.
    fn is_on(&self, live: &Live<R>) -> bool {
        self.generation == live.generation && self.link.is_some()
    }

    /// Gives up the connection. Threads that still wait for replies on it close it when they notice that.
    fn give_up(&mut self) {
        if let Some(link) = self.link.take().and_then(Arc::into_inner) {
            link.close();
        }
    }

    /// Answers a call that needs no module, because it ends something that has already ended with the connection.
    fn answer_alone(&mut self, call: &Call<'_>) -> Option<CkRv> {
        if self.finished {
            return None;
        }
        let is_live = self.link.as_ref().is_some_and(|link| !link.is_lost());
        let generation = if is_live {
            self.generation
        } else {
            tables::PAST
        };
        self.tables.answer_alone(call, generation)
    }
}

/// Returns the application's handle of a session that was opened on the connection with this number.
fn application_session<R>(
    shared: &Weak<Shared<R>>,
    generation: u64,
    real: SessionHandle,
) -> Option<SessionHandle> {
    let shared = shared.upgrade()?;
    let state = shared.state();
    state.tables.application_session(generation, real)
}

impl<R: Remote + 'static> Cryptoki for Recovery<R> {
    fn call(&self, call: Call<'_>) -> Reply {
        self.call_with_nulls(call, NullPlaces::NONE)
    }

    fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        let answered = self.answer(&call, nulls, |link, real| link.call_with_nulls(real, nulls));
        answered.unwrap_or_else(|rv| Reply::only(call.function(), rv))
    }
}

impl<R: Remote + 'static> DistantModule for Recovery<R> {
    fn interfaces(&self) -> Flags {
        self.interfaces
    }

    fn call_into(&self, call: Call<'_>, landing: &mut Landing<'_>) -> Reply {
        let answered = self.answer(&call, NullPlaces::NONE, |link, real| {
            link.call_into(real, landing)
        });
        answered.unwrap_or_else(|rv| Reply::only(call.function(), rv))
    }

    /// Always false, because a lost connection is restored.
    fn is_lost(&self) -> bool {
        false
    }

    fn finish(&self) -> Result<(), CkRv> {
        let mut state = self.shared.state();
        state.finished = true;
        state.tables = Tables::default();
        let link = state.link.take();
        drop(state);
        self.shared.changed.notify_all();
        link.map_or(Ok(()), |link| link.finish())
    }
}

#[cfg(test)]
mod tests;
