//! Keeps the PIN of a login, if the site wants that, and repeats the login on a new connection.
//!
//! A PIN is tried a second time only if it was right, or if the token itself failed and has not counted a wrong PIN.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bindings::locked::LockedSecret;
use xdr::{Call, CkRv, Input, SessionHandle, SlotId, UserType};

use super::tables::Login;
use super::{Live, Recovery, State, Trouble};
use crate::remote::Remote;

/// The pause before a login is tried again that failed because of an error of the token. SoftHSM fails like that when
/// several processes log in at the same moment. It is tried again only once: a token may return this CK_RV for a wrong
/// PIN, against the standard.
const PAUSE: Duration = Duration::from_millis(100);

/// CKU_USER.
const USER: UserType = UserType(1);

impl<R: Remote + 'static> Recovery<R> {
    /// Logs in again, if the application was logged in and its PIN was kept. A PIN that was refused, or whose login got
    /// no reply, is not tried again.
    pub(super) fn restore_login(
        &self,
        live: &Live<R>,
        slot: SlotId,
        session: SessionHandle,
    ) -> Result<(), Trouble> {
        live.check_time()?; // otherwise the PIN would be given up without having been tried
        let mut state = self.shared.state();
        let Some(known) = state.tables.slots.get_mut(&slot) else {
            return Ok(());
        };
        let is_past = |login: &mut Login| login.generation != live.generation;
        let Some(mut login) = known.login.take_if(is_past) else {
            return Ok(());
        };
        known.has_lost_login = true;
        let (real, logouts, is_known) = (known.real, known.logouts, known.present.is_some());
        let is_at_last_try = known.present.as_ref().is_some_and(|it| it.is_at_last_try);
        drop(state);
        if is_at_last_try {
            log::error!("the application has to log in again: a wrong PIN would lock the token");
            return Ok(());
        }
        let Some(pin) = login.pin.as_ref().filter(|_| is_known) else {
            log::warn!("the application has to log in again: its PIN was not kept (keep_pin)");
            return Ok(());
        };
        let pin = Input::Bytes(pin.bytes());
        let call = match &login.name {
            None => Call::C_Login(session, login.user, pin),
            Some(name) => Call::C_LoginUser(session, login.user, pin, Input::Bytes(name)),
        };
        let rv = match live.log_in(real, call) {
            Ok(rv) => rv,
            Err(trouble) => {
                if let Trouble::Leaving = trouble {
                    // The login was not executed.
                    self.keep_login(slot, logouts, login);
                }
                return Err(trouble);
            }
        };
        if ![CkRv::OK, CkRv::USER_ALREADY_LOGGED_IN].contains(&rv) {
            log::error!(
                "C_Login: {rv} on a new connection; the PIN is not tried again, and the application has to log in"
            );
            return Ok(());
        }
        login.generation = live.generation;
        if !self.keep_login(slot, logouts, login) {
            live.ask_at_any_time(Call::C_Logout(session))?;
        }
        Ok(())
    }

    /// Keeps a login that was being repeated, unless the application has logged out meanwhile. Returns whether it is
    /// kept.
    fn keep_login(&self, slot: SlotId, logouts: u64, login: Login) -> bool {
        let mut state = self.shared.state();
        let known = state.tables.slots.get_mut(&slot);
        let Some(known) = known.filter(|it| it.logouts == logouts) else {
            return false;
        };
        known.has_lost_login = false;
        known.login = Some(login);
        true
    }

    pub(super) fn logged_in(
        &self,
        live: &Live<R>,
        session: SessionHandle,
        user: UserType,
        pin: Input<'_>,
        name: Option<Input<'_>>,
    ) {
        if user != USER {
            return;
        }
        let name = match name {
            None => None,
            Some(Input::Bytes(name)) => Some(name.to_vec()),
            Some(_) => return,
        };
        let mut login = Login {
            user,
            name,
            pin: self.kept(pin),
            generation: live.generation,
        };
        let state = self.shared.state();
        let slot = state.tables.sessions.get(&session).map(|it| it.slot);
        let known = slot.and_then(|it| state.tables.slots.get(&it));
        let (real, logouts) = (known.map(|it| it.real), known.map(|it| it.logouts));
        drop(state);
        // The PIN is for the token that is there now, which may be a different one from when the session was opened.
        let mut token = None;
        if let Some(real) = real.filter(|_| login.pin.is_some()) {
            token = live.token(real).ok().flatten().map(Arc::new);
            login.pin = login.pin.filter(|_| token.is_some());
        }
        let mut state = self.shared.state();
        if let Some(slot) = slot.and_then(|it| state.tables.slots.get_mut(&it)) {
            // Another thread may have logged out meanwhile, which ends this login.
            if logouts == Some(slot.logouts) {
                slot.has_lost_login = false;
                slot.login = Some(login);
            }
            if token.is_some() && slot.token != token {
                slot.holds(token);
            }
        }
    }

    /// Copies a PIN, if the site wants it kept and memory can be locked for it.
    pub(super) fn kept(&self, pin: Input<'_>) -> Option<LockedSecret> {
        let Input::Bytes(pin) = pin else {
            return None; // entered at the token
        };
        if !self.keep_pin {
            return None;
        }
        let kept = LockedSecret::new(pin);
        if let Err(error) = &kept {
            log::warn!("the PIN cannot be kept, so logins cannot be repeated: {error}");
        }
        kept.ok()
    }
}

impl<R: Remote + 'static> Live<R> {
    /// Makes a login call. If the token in this slot of the module failed, and says that it has seen no wrong PIN,
    /// makes it again.
    fn log_in(&self, slot: SlotId, call: Call<'_>) -> Result<CkRv, Trouble> {
        let rv = self.ask_at_any_time(call.clone())?.rv();
        if rv != CkRv::GENERAL_ERROR {
            return Ok(rv);
        }
        thread::sleep(PAUSE);
        match self.token(slot)? {
            Some(token) if !token.had_wrong_pin => {
                log::info!("C_Login: {rv} on a new connection; it is tried again");
                Ok(self.ask_at_any_time(call)?.rv())
            }
            _ => Ok(rv),
        }
    }
}

impl<R> State<R> {
    /// Returns the login that is in force in a session.
    pub(super) fn login_of(&mut self, session: SessionHandle) -> Option<&mut Login> {
        let slot = self.tables.sessions.get(&session)?.slot;
        self.tables.slots.get_mut(&slot)?.login.as_mut()
    }
}
