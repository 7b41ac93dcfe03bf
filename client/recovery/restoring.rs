//! Restores what a call needs on a new connection: the slot of a token, a session, a login, an object.
//!
//! One thread does so at a time. What was restored is noted in the tables; what could not be is tried again by the next call
//! that needs it, except a login: whatever comes of repeating it, its PIN is not tried a second time unless it was
//! right.

use std::collections::HashSet;
use std::sync::Arc;

use bindings::locked::LockedSecret;
use transport::Deadline;
use xdr::{
    Answer, Attribute, AttributeType, Call, CkRv, Cryptoki, Flags, Found, Function, Input,
    NullPlaces, ObjectHandle, Query, RV_LEAVING, Reply, Room, SessionHandle, SlotId, Ulong,
    UserType, Wanted,
};

use super::descriptions::{Description, Token, Values, describe};
use super::tables::{Copied, Known, Login, Missing, Slot};
use super::{Live, Recovery, State, Trouble, Turn};
use crate::link::DistantModule;
use crate::remote::Remote;

/// CKU_USER.
const USER: UserType = UserType(1);

/// CKA_TOKEN.
const TOKEN: AttributeType = AttributeType(1);

/// How many objects are compared, and how many slots looked at, at the most.
const MOST: u64 = 64;

/// Why an answer of the module is of no use.
fn refused(rv: CkRv) -> Trouble {
    Trouble::Refused(if rv.is_ok() { CkRv::GENERAL_ERROR } else { rv })
}

impl<R: Remote> Live<R> {
    /// Makes a call of the library's own, if there is time for it.
    fn ask(&self, call: Call<'_>) -> Result<Reply, Trouble> {
        self.check_time()?;
        self.ask_at_any_time(call)
    }

    fn check_time(&self) -> Result<(), Trouble> {
        let is_over = |_| Trouble::Refused(CkRv::DEVICE_ERROR);
        self.deadline.remaining().map(drop).map_err(is_over)
    }

    /// Makes a call of the library's own that must not be left out.
    fn ask_at_any_time(&self, call: Call<'_>) -> Result<Reply, Trouble> {
        let reply = self.link.call(call);
        match reply.rv() {
            RV_LEAVING => Err(Trouble::Leaving),
            CkRv::DEVICE_ERROR if self.link.is_lost() => Err(Trouble::Lost),
            _ => Ok(reply),
        }
    }

    /// The token in a slot of the module's, if it says.
    fn token(&self, slot: SlotId) -> Result<Option<Token>, Trouble> {
        match self.ask(Call::C_GetTokenInfo(slot))? {
            Reply::C_GetTokenInfo(answer) if answer.rv.is_ok() => Ok(Some(Token::of(&answer.info))),
            _ => Ok(None),
        }
    }

    fn slots(&self) -> Result<Vec<SlotId>, Trouble> {
        match self.ask(Call::C_GetSlotList(Ulong(1), Room::Buffer(MOST)))? {
            Reply::C_GetSlotList(answer) if answer.rv.is_ok() => Ok(answer.slots),
            reply => Err(refused(reply.rv())),
        }
    }

    fn open(&self, slot: SlotId, flags: Flags, notify: bool) -> Result<SessionHandle, Trouble> {
        match self.ask(Call::C_OpenSession(slot, flags, notify))? {
            Reply::C_OpenSession(opened) if opened.rv.is_ok() => Ok(opened.session),
            reply => Err(refused(reply.rv())),
        }
    }

    /// The values of these attributes of an object, as far as it has them and they may be known.
    fn values(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        wanted: Vec<Wanted>,
    ) -> Result<Values, Trouble> {
        let ask = |wanted| {
            let call = Call::C_GetAttributeValue(session, object, Some(Query(wanted)));
            match self.ask(call)? {
                Reply::C_GetAttributeValue(answer) => Ok(answer.answers.0),
                reply => Err(refused(reply.rv())),
            }
        };
        let of = |answers: &[Answer]| -> Values {
            let value = |it: &Answer| Some((it.attribute_type.0, it.bytes()?.to_vec()));
            answers.iter().filter_map(value).collect()
        };
        let answers = ask(wanted.clone())?;
        let mut values = of(&answers);
        // A module may end at the first attribute that the object has not.
        let is_untouched = |it: &Answer| it.found == Found::Untouched;
        let mut answers = answers.iter();
        for wanted in wanted {
            if answers.next().is_none_or(is_untouched) {
                values.append(&mut of(&ask(vec![wanted])?));
            }
        }
        Ok(values)
    }

    fn describe(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        token: Option<Arc<Token>>,
    ) -> Result<Description, Trouble> {
        describe(token, |wanted| self.values(session, object, wanted))
    }

    /// The objects that a search finds, as many as are compared and one more.
    fn find(
        &self,
        session: SessionHandle,
        template: xdr::Template,
    ) -> Result<Vec<ObjectHandle>, Trouble> {
        let begun = self.ask(Call::C_FindObjectsInit(session, Some(template)))?;
        if !begun.rv().is_ok() {
            return Err(refused(begun.rv()));
        }
        let mut found = Vec::new();
        while (found.len() as u64) <= MOST {
            match self.ask(Call::C_FindObjects(session, Room::Buffer(MOST)))? {
                Reply::C_FindObjects(answer) if answer.rv.is_ok() => {
                    if answer.objects.is_empty() {
                        break;
                    }
                    found.extend(answer.objects);
                }
                reply => return Err(refused(reply.rv())),
            }
        }
        self.ask(Call::C_FindObjectsFinal(session))?;
        Ok(found)
    }
}

impl<R: Remote + 'static> Recovery<R> {
    /// The call with the handles of the module behind this connection. Restores what they belong to.
    pub(super) fn with_real_handles<'a>(
        &self,
        live: &Live<R>,
        call: &Call<'a>,
        deadline: Deadline,
    ) -> Result<Call<'a>, Trouble> {
        loop {
            let mut real = call.clone();
            let missing = self
                .shared
                .state()
                .tables
                .translate(&mut real, live.generation)?;
            let Some(missing) = missing else {
                return Ok(real);
            };
            let _turn = self.turn(deadline)?;
            let restored = match missing {
                Missing::Slot(slot) => self.restore_slot(live, slot).map(drop),
                Missing::Session(session) => self.restore_session(live, session),
                Missing::Object {
                    object,
                    session,
                    refusal,
                    known,
                    copied: None,
                } => self.restore_object(live, object, session, refusal, &known),
                Missing::Object {
                    object,
                    refusal,
                    copied: Some(copied),
                    ..
                } => self.restore_copy(live, object, refusal, &copied),
                Missing::Description { object, session } => {
                    self.look_at_object(live, session, object)
                }
                Missing::Keeper(session) => match self.restore_session(live, session) {
                    // The call can do without.
                    Ok(()) | Err(Trouble::Refused(_)) => return Ok(real),
                    lost => lost,
                },
            };
            restored?;
            if deadline.remaining().is_err() {
                return Err(Trouble::Refused(CkRv::DEVICE_ERROR));
            }
        }
    }

    /// Waits until no other thread restores anything.
    fn turn(&self, deadline: Deadline) -> Result<Turn<'_, R>, CkRv> {
        let mut state = self.shared.state();
        while state.restoring {
            state = self.shared.wait(state, deadline)?;
        }
        state.restoring = true;
        drop(state);
        Ok(Turn {
            shared: &self.shared,
            flag: |state| &mut state.restoring,
        })
    }

    /// The module's number of the slot with the application's token: the same token, or behind another daemon one of the same
    /// name.
    fn restore_slot(&self, live: &Live<R>, slot: SlotId) -> Result<SlotId, Trouble> {
        let state = self.shared.state();
        let Some(known) = state.tables.slots.get(&slot) else {
            return Ok(slot);
        };
        if known.generation == live.generation {
            return Ok(known.real);
        }
        let (token, real, is_same_daemon) =
            (known.token.clone(), known.real, known.daemon == live.daemon);
        drop(state);
        let (real, present) = match &token {
            // It could not be asked for, so the slot's number has to do.
            None => (real, None),
            Some(token) => {
                let found = find_token(live, token, real, is_same_daemon)?;
                let (real, present) = found.ok_or_else(|| {
                    log::error!("no slot has the token {} any more", token.name());
                    Trouble::Refused(CkRv::DEVICE_REMOVED)
                })?;
                (real, Some(Arc::new(present)))
            }
        };
        let mut state = self.shared.state();
        if let Some(known) = state.tables.slots.get_mut(&slot) {
            known.real = real;
            known.present = present;
            known.generation = live.generation;
        }
        Ok(real)
    }

    /// Opens a session again, and logs in if the application was.
    fn restore_session(&self, live: &Live<R>, session: SessionHandle) -> Result<(), Trouble> {
        let state = self.shared.state();
        let Some(known) = state.tables.sessions.get(&session) else {
            return Ok(());
        };
        if known.generation == live.generation {
            return Ok(());
        }
        let (slot, flags, notify) = (known.slot, known.flags, known.notify);
        drop(state);
        let real_slot = self.restore_slot(live, slot)?;
        let real = live.open(real_slot, flags, notify).map_err(|trouble| {
            if let Trouble::Refused(rv) = &trouble {
                log::error!("a session could not be opened again: {rv}");
            }
            trouble.into_device_error()
        })?;
        let restored = self.restore_login(live, slot, real);
        let reopened = || {
            let mut state = self.shared.state();
            state.tables.reopened(session, real, live.generation)
        };
        if restored.is_err() || !reopened() {
            live.ask_at_any_time(Call::C_CloseSession(real))?;
        }
        restored
    }

    /// Logs in again, if the application was logged in and its PIN was kept. A PIN that was refused, or whose login was not
    /// answered, is not tried again.
    fn restore_login(
        &self,
        live: &Live<R>,
        slot: SlotId,
        session: SessionHandle,
    ) -> Result<(), Trouble> {
        live.check_time()?; // or the PIN would be given up without having been tried
        let mut state = self.shared.state();
        let Some(known) = state.tables.slots.get_mut(&slot) else {
            return Ok(());
        };
        let is_past = |login: &mut Login| login.generation != live.generation;
        let Some(mut login) = known.login.take_if(is_past) else {
            return Ok(());
        };
        known.has_lost_login = true;
        let (logouts, is_known) = (known.logouts, known.present.is_some());
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
        let rv = match live.ask_at_any_time(call) {
            Ok(reply) => reply.rv(),
            Err(trouble) => {
                if let Trouble::Leaving = trouble {
                    // It was not executed.
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

    /// Keeps a login that was being repeated, unless the application has logged out meanwhile.
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

    /// Finds an object again that the call of `session` uses.
    fn restore_object(
        &self,
        live: &Live<R>,
        object: ObjectHandle,
        session: SessionHandle,
        refusal: CkRv,
        known: &Description,
    ) -> Result<(), Trouble> {
        if let Some(real) = self.find_again(live, object, session, refusal, known)? {
            let mut state = self.shared.state();
            state.tables.restored(object, real, live.generation);
        }
        Ok(())
    }

    /// Makes a copy again, in the session that it ends with.
    fn restore_copy(
        &self,
        live: &Live<R>,
        object: ObjectHandle,
        refusal: CkRv,
        copied: &Copied,
    ) -> Result<(), Trouble> {
        self.restore_session(live, copied.session)?;
        let found = self.find_again(live, object, copied.session, refusal, &copied.original)?;
        let Some(original) = found else {
            return Ok(());
        };
        let state = self.shared.state();
        let Some(session) = state.tables.sessions.get(&copied.session) else {
            return Err(refusal.into());
        };
        let session = session.real;
        drop(state);
        let call = Call::C_CopyObject(session, original, Some(copied.template.clone()));
        match live.ask(call)? {
            Reply::C_CopyObject(made) if made.rv.is_ok() => {
                let real = made.object.ok_or(Trouble::Refused(refusal))?;
                let mut state = self.shared.state();
                state.tables.restored(object, real, live.generation);
                Ok(())
            }
            reply => Err(refused(reply.rv()).into_device_error()),
        }
    }

    /// The object on the token that is what is known of one; the application uses it in `session`. `None`: `object` was
    /// restored meanwhile.
    fn find_again(
        &self,
        live: &Live<R>,
        object: ObjectHandle,
        session: SessionHandle,
        refusal: CkRv,
        known: &Description,
    ) -> Result<Option<ObjectHandle>, Trouble> {
        let state = self.shared.state();
        if state.tables.real_object(object, live.generation).is_some() {
            return Ok(None);
        }
        let of_session = state.tables.sessions.get(&session);
        let Some((slot, flags)) = of_session.map(|it| (it.slot, it.flags)) else {
            return Err(refusal.into());
        };
        let slot = state.tables.slots.get(&slot);
        let Some((real_slot, present, has_lost_login)) =
            slot.map(|it| (it.real, it.present.clone(), it.has_lost_login))
        else {
            return Err(refusal.into());
        };
        drop(state);
        // The application may search in its own session at this moment.
        let own = live
            .open(real_slot, flags, false)
            .map_err(Trouble::into_device_error)?;
        let found = find_object(live, own, known, present);
        live.ask_at_any_time(Call::C_CloseSession(own))?;
        match found? {
            Some(real) => Ok(Some(real)),
            None if has_lost_login && known.is_private() => {
                Err(Trouble::Refused(CkRv::USER_NOT_LOGGED_IN))
            }
            None => {
                log::warn!(
                    "an object of the application cannot be found again, or not told from others"
                );
                Err(refusal.into())
            }
        }
    }

    /// Notes what a call has done, and puts the application's handles into its reply.
    pub(super) fn learn(
        &self,
        live: &Live<R>,
        call: &Call<'_>,
        reply: &mut Reply,
        nulls: NullPlaces,
        deadline: Deadline,
    ) -> Result<(), Trouble> {
        let rv = reply.rv();
        let known = match rv.is_ok() {
            true => self.look_at(live, call, reply)?,
            false => Vec::new(),
        };
        let mut state = self.shared.state();
        if state.finished {
            return Ok(());
        }
        if rv.is_ok() {
            state
                .tables
                .put_into(call, reply, live.generation, nulls, known)?;
        }
        state.tables.done(call, rv);
        drop(state);
        if !rv.is_ok() {
            return Ok(());
        }
        match call {
            Call::C_OpenSession(slot, ..) if !nulls.first => {
                let Reply::C_OpenSession(opened) = reply else {
                    return Ok(());
                };
                let ready = self.opened(live, *slot, opened.session, deadline);
                if ready.is_err() {
                    self.close(live, opened.session);
                }
                ready
            }
            Call::C_Login(session, user, pin) => {
                self.logged_in(live, *session, *user, *pin, None);
                Ok(())
            }
            Call::C_LoginUser(session, user, pin, name) => {
                self.logged_in(live, *session, *user, *pin, Some(*name));
                Ok(())
            }
            Call::C_SetPIN(session, _, new) => {
                let mut state = self.shared.state();
                if let Some(login) = state.login_of(*session) {
                    login.pin = login.pin.take().and_then(|_| self.kept(*new));
                }
                Ok(())
            }
            Call::C_SetAttributeValue(session, object, _) => {
                // The change has been made, whatever becomes of this question. What the object was does not count any more.
                if self.look_at_object(live, *session, *object).is_err() {
                    let mut state = self.shared.state();
                    state.tables.changed(*object, Known::Nothing);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What is known of each object in a reply, in their order.
    fn look_at(
        &self,
        live: &Live<R>,
        call: &Call<'_>,
        reply: &mut Reply,
    ) -> Result<Vec<Known>, Trouble> {
        let mut objects = Vec::new();
        reply.each_handle(call, &mut |handle| {
            if let xdr::handles::Handle::Result(object) = handle {
                objects.push(*object);
            }
            Ok(())
        })?;
        let Some(session) = call.session().filter(|_| !objects.is_empty()) else {
            return Ok(Vec::new());
        };
        let is_for_token = |it: &Attribute| it.attribute_type == TOKEN && *it.bytes() == [1];
        let mut made = call.values().flat_map(|template| &template.0);
        let is_worth_asking = matches!(
            call.function(),
            Function::C_FindObjects | Function::C_CopyObject | Function::C_AsyncComplete
        ) || made.any(is_for_token);
        if !is_worth_asking {
            return Ok(vec![Known::OfSession; objects.len()]);
        }
        let (real, token) = self.place(live, session)?;
        let is_search = call.function() == Function::C_FindObjects;
        let mut left = match is_search {
            true => self.shared.state().tables.look_at(session, objects.len()),
            false => objects.len(),
        };
        let described = objects.into_iter().map(|object| {
            if left == 0 {
                return Ok(Known::NotYet);
            }
            left -= 1;
            match live.describe(real, object, token.clone()) {
                Ok(description) if description.is_of_token() => {
                    Ok(Known::Described(Arc::new(description)))
                }
                Ok(_) => Ok(self.copied(call)),
                // What was made is made.
                Err(_) if !is_search => Ok(Known::Nothing),
                // There is no time for more.
                Err(Trouble::Refused(_)) => Ok(Known::NotYet),
                Err(trouble) => Err(trouble),
            }
        });
        described.collect()
    }

    /// What is known of a session object that a call has found or made.
    fn copied(&self, call: &Call<'_>) -> Known {
        let Call::C_CopyObject(session, original, template) = call else {
            return Known::OfSession;
        };
        let template = template.clone().unwrap_or_default();
        let original = self.shared.state().tables.description(*original);
        match original {
            Some(original) if template.0.len() as u64 <= MOST => Known::Copied(Arc::new(Copied {
                original,
                session: *session,
                template,
            })),
            _ => Known::OfSession,
        }
    }

    /// Looks at an object that is used for the first time.
    fn look_at_object(
        &self,
        live: &Live<R>,
        session: SessionHandle,
        object: ObjectHandle,
    ) -> Result<(), Trouble> {
        let real_object = self
            .shared
            .state()
            .tables
            .real_object(object, live.generation);
        let Some(real_object) = real_object else {
            return Ok(());
        };
        let (real, token) = self.place(live, session)?;
        let known = match live.describe(real, real_object, token) {
            Ok(description) if description.is_of_token() => Known::Described(Arc::new(description)),
            Ok(_) => Known::OfSession,
            Err(Trouble::Refused(_)) => Known::Nothing,
            Err(trouble) => return Err(trouble),
        };
        self.shared.state().tables.changed(object, known);
        Ok(())
    }

    /// The module's handle of a session, and the token that it is with.
    fn place(
        &self,
        live: &Live<R>,
        session: SessionHandle,
    ) -> Result<(SessionHandle, Option<Arc<Token>>), Trouble> {
        let state = self.shared.state();
        let known = state.tables.sessions.get(&session);
        let known = known.filter(|it| it.generation == live.generation);
        let known = known.ok_or(Trouble::Lost)?;
        let slot = state.tables.slots.get(&known.slot);
        Ok((known.real, slot.and_then(|it| it.present.clone())))
    }

    /// A session was opened. The only one with a slot: which token is it with? Another one on a new connection: is the
    /// login to be repeated?
    fn opened(
        &self,
        live: &Live<R>,
        slot: SlotId,
        session: SessionHandle,
        deadline: Deadline,
    ) -> Result<(), Trouble> {
        let _turn = self.turn(deadline)?;
        let state = self.shared.state();
        let known = state.tables.slots.get(&slot);
        let (is_known, real_slot) = (known.is_some(), known.map_or(slot, |it| it.real));
        let is_only_one = state.tables.is_only_one(session, slot);
        let real = state.tables.sessions.get(&session).map(|it| it.real);
        drop(state);
        if !is_known || is_only_one {
            // Nothing is known if the connection is lost at this moment; the session is opened again all the same.
            let token = live.token(real_slot).ok().flatten().map(Arc::new);
            let first = || Slot {
                real: slot,
                generation: live.generation,
                token: None,
                present: None,
                daemon: live.daemon,
                login: None,
                has_lost_login: false,
                logouts: 0,
            };
            let mut state = self.shared.state();
            let known = state.tables.slots.entry(slot).or_insert_with(first);
            known.daemon = live.daemon;
            known.holds(token);
        } else if let Some(real) = real {
            match self.restore_login(live, slot, real) {
                Err(Trouble::Lost | Trouble::Leaving) | Ok(()) => {}
                refused => return refused,
            }
        }
        Ok(())
    }

    /// Closes a session of which the application will not know.
    fn close(&self, live: &Live<R>, session: SessionHandle) {
        let mut state = self.shared.state();
        let real = state.tables.sessions.get(&session).map(|it| it.real);
        state.tables.close(session);
        drop(state);
        if let Some(real) = real {
            let _closed = live.ask_at_any_time(Call::C_CloseSession(real));
        }
    }

    fn logged_in(
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
        let real = slot.and_then(|it| Some(state.tables.slots.get(&it)?.real));
        drop(state);
        // The PIN is that of the token which is there now. It may be another one than when the session was opened.
        let mut token = None;
        if let Some(real) = real.filter(|_| login.pin.is_some()) {
            token = live.token(real).ok().flatten().map(Arc::new);
            login.pin = login.pin.filter(|_| token.is_some());
        }
        let mut state = self.shared.state();
        if let Some(slot) = slot.and_then(|it| state.tables.slots.get_mut(&it)) {
            slot.has_lost_login = false;
            slot.login = Some(login);
            if token.is_some() && slot.token != token {
                slot.holds(token);
            }
        }
    }

    /// A copy of a PIN, if the site wants it kept and there is memory for it.
    fn kept(&self, pin: Input<'_>) -> Option<LockedSecret> {
        let Input::Bytes(pin) = pin else {
            return None; // entered at the token
        };
        if !self.keep_pin {
            return None;
        }
        let kept = LockedSecret::new(pin);
        if let Err(error) = &kept {
            log::warn!("the PIN is not kept, so that a login cannot be repeated: {error}");
        }
        kept.ok()
    }
}

impl<R> State<R> {
    /// The login that is in force in a session.
    fn login_of(&mut self, session: SessionHandle) -> Option<&mut Login> {
        let slot = self.tables.sessions.get(&session)?.slot;
        self.tables.slots.get_mut(&slot)?.login.as_mut()
    }
}

impl Trouble {
    /// What cannot be restored for a reason of the module's is an error of the device for the application.
    fn into_device_error(self) -> Trouble {
        match self {
            Trouble::Lost | Trouble::Leaving => self,
            Trouble::Refused(_) => Trouble::Refused(CkRv::DEVICE_ERROR),
        }
    }
}

/// The slot with a token, and the token: first where it was, then anywhere.
fn find_token<R: Remote>(
    live: &Live<R>,
    token: &Token,
    was_in: SlotId,
    is_same_daemon: bool,
) -> Result<Option<(SlotId, Token)>, Trouble> {
    if let Some(present) = live.token(was_in)?.filter(|present| present == token) {
        return Ok(Some((was_in, present)));
    }
    let mut alike = Vec::new();
    for slot in live.slots()? {
        match live.token(slot)? {
            Some(present) if present == *token => return Ok(Some((slot, present))),
            Some(present) if present.has_label_of(token) => alike.push((slot, present)),
            _ => {}
        }
    }
    let is_only_one = alike.len() == 1 && !is_same_daemon;
    Ok(alike.pop().filter(|_| is_only_one))
}

/// The only object that is what is known of one.
fn find_object<R: Remote>(
    live: &Live<R>,
    session: SessionHandle,
    known: &Description,
    present: Option<Arc<Token>>,
) -> Result<Option<ObjectHandle>, Trouble> {
    let Some(template) = known.search(present.as_deref()) else {
        return Ok(None);
    };
    let found = live.find(session, template)?;
    if found.len() as u64 > MOST {
        return Ok(None); // too many to compare
    }
    let found: HashSet<ObjectHandle> = found.into_iter().collect();
    let mut same = Vec::new();
    for object in found {
        let description = live.describe(session, object, present.clone())?;
        if known.is(&description, present.as_deref()) {
            same.push(object);
        }
    }
    let is_only_one = same.len() == 1;
    Ok(same.pop().filter(|_| is_only_one))
}
