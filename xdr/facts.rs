//! Lists the facts about each PKCS#11 function from which other modules derive their rules, one row for each function.
//!
//! The filter derives which checks a call gets, the client which operation a call belongs to, and both programs which
//! calls carry secrets. A row gives each argument of the procedure its [`Role`]. The compiler refuses a procedure
//! without a row, and a row whose arguments do not fit the procedure. This module decides nothing: what follows from a
//! fact is written where the rule is.

use crate::buffers::{Input, Room};
use crate::call::{Call, Function};
use crate::handles::{self, Handle, Look};
use crate::integers::{CkRv, MechanismType, ObjectHandle, SessionHandle, SlotId, UserType};
use crate::mechanism::{Mechanism, Use};
use crate::templates::{Query, Template};
use crate::wire_types::{MechanismPointer, QueryPointer, TemplatePointer};

/// The role of an argument of a function.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The session that the call is made in.
    Session,
    /// A slot. No rule looks at it.
    Slot,
    /// A number or a flag. No rule looks at it.
    Plain,
    /// A mechanism with its parameter, for an operation.
    Mechanism,
    /// A mechanism with its parameter, for an operation on messages.
    MessageMechanism,
    /// The parameter of one message, with the mechanism of the messages.
    MessageParameter,
    /// The type of a mechanism that the call asks about.
    MechanismType,
    /// An object that is read, copied, changed or destroyed. A client that may not use it gets this
    /// CK_RV.
    Object(CkRv),
    /// A key that the call uses. A client that may not use it gets this CK_RV.
    Key(CkRv),
    /// Like [`Role::Key`], but 0 means that there is no such key.
    KeyOrNone(CkRv),
    /// Attribute values of an object that is made or changed. They may hold a key.
    Values,
    /// Attribute values that objects must have to be found by a search.
    Selection,
    /// Attribute types that are asked for, each with room for its value.
    Query,
    /// The user who logs in.
    User,
    /// A PIN that the token compares with its own.
    Pin,
    /// A PIN that is set.
    NewPin,
    /// Bytes that are or may hold plaintext, a key or a seed.
    Secret,
    /// Other bytes: a ciphertext, a signature, what is digested or signed.
    Data,
    /// The name of a module in C_LoadModule, which is never NULL.
    Name,
    /// The room for what the call returns.
    Room,
}

impl Role {
    /// Whether an argument of this role may be, or contain, a PIN, a key or plaintext. The parameter of a mechanism may
    /// contain a password or the PIN of a one-time password.
    pub const fn is_secret(self) -> bool {
        match self {
            Role::Values
            | Role::Selection
            | Role::Mechanism
            | Role::MessageMechanism
            | Role::Pin
            | Role::NewPin
            | Role::Secret => true,
            Role::Session
            | Role::Slot
            | Role::Plain
            | Role::MessageParameter
            | Role::MechanismType
            | Role::Object(_)
            | Role::Key(_)
            | Role::KeyOrNone(_)
            | Role::Query
            | Role::User
            | Role::Data
            | Role::Name
            | Role::Room => false,
        }
    }
}

/// A kind of operation. A session has at most one of each at a time (PKCS#11 v2.20, section 6.7.7).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs)] // the names of the functions they are made of
pub enum Family {
    Digest,
    Sign,
    SignRecover,
    Verify,
    VerifyRecover,
    Encrypt,
    Decrypt,
    Search,
    Wrap,
    Unwrap,
    Derive,
    Generate,
    OperationState,
}

/// What a function does with the operation of its family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// Begins it.
    Init,
    /// Continues it: the operation is still active afterwards.
    Update,
    /// Ends it, with the last part or with the only one.
    End,
    /// Is the whole operation in one call.
    Whole,
}

/// What a function does apart from its operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// Logs a user in.
    LogsIn,
    /// Makes, changes or destroys an object, a PIN or a token.
    Writes,
    /// Administers the token, beyond what its user may do.
    Administers,
    /// Returns plaintext, or bytes that may be a key. C_DeriveKey does with mechanisms such as CKM_TLS_PRF, in their
    /// parameter.
    Reveals,
}

/// The facts of one function.
#[derive(Debug)]
pub struct Facts {
    /// The roles of its arguments, in the order of `pkcs11_rpc_v4.x`.
    pub roles: &'static [Role],
    /// The operations it belongs to; the combined functions belong to two.
    pub families: &'static [Family],
    /// What it does with these operations; `None` if it belongs to none.
    pub step: Option<Step>,
    /// What else it does.
    pub effects: &'static [Effect],
    /// The two functions that it does the work of in one call (PKCS#11 v2.20, section 11.13).
    pub parts: &'static [Function],
    /// The function of PKCS#11 v2.20 whose rules also apply to this one.
    pub relative: Option<Function>,
}

impl Facts {
    /// Whether the function does this.
    pub fn has(&self, effect: Effect) -> bool {
        self.effects.contains(&effect)
    }

    /// Whether the function takes part in an operation of this kind.
    pub fn is_of(&self, family: Family) -> bool {
        self.families.contains(&family)
    }
}

/// An argument of a call that a rule may look at. The other roles have no variant here.
#[derive(Clone, Copy)]
pub enum Argument<'a> {
    /// See [`Role::Session`].
    Session(SessionHandle),
    /// See [`Role::Mechanism`] and the roles that follow it.
    Mechanism(&'a Mechanism),
    /// See [`Role::MechanismType`].
    MechanismType(MechanismType),
    /// See [`Role::Object`].
    Object(ObjectHandle, CkRv),
    /// See [`Role::Key`] and [`Role::KeyOrNone`].
    Key(ObjectHandle, CkRv),
    /// See [`Role::Values`].
    Values(&'a Template),
    /// See [`Role::Selection`].
    Selection(&'a Template),
    /// See [`Role::Query`].
    Query(&'a Query),
    /// See [`Role::User`].
    User(UserType),
}

/// Upper bound on the arguments of a function.
const MOST_ARGUMENTS: usize = 6;

macro_rules! role {
    ($role:ident) => {
        Role::$role
    };
    ($role:ident $refusal:ident) => {
        Role::$role(CkRv::$refusal)
    };
}

/// Makes the [`Argument`] of a role. `Some` checks that the argument has the type of its role.
macro_rules! argument {
    ($value:ident: Key $refusal:ident) => {
        Some(Argument::Key(*$value, CkRv::$refusal))
    };
    ($value:ident: KeyOrNone $refusal:ident) => {
        Some(Argument::Key(*$value, CkRv::$refusal)).filter(|_| $value.0 != 0)
    };
    ($value:ident: Object $refusal:ident) => {
        Some(Argument::Object(*$value, CkRv::$refusal))
    };
    ($value:ident: Session) => {
        Some(Argument::Session(*$value))
    };
    ($value:ident: MechanismType) => {
        Some(Argument::MechanismType(*$value))
    };
    ($value:ident: User) => {
        Some(Argument::User(*$value))
    };
    ($value:ident: Mechanism) => {{
        let mechanism: &MechanismPointer = $value;
        mechanism.as_ref().map(Argument::Mechanism)
    }};
    ($value:ident: MessageMechanism) => {
        argument!($value: Mechanism)
    };
    ($value:ident: MessageParameter) => {
        Some(Argument::Mechanism($value))
    };
    ($value:ident: Values) => {{
        let template: &TemplatePointer = $value;
        template.as_ref().map(Argument::Values)
    }};
    ($value:ident: Selection) => {{
        let template: &TemplatePointer = $value;
        template.as_ref().map(Argument::Selection)
    }};
    ($value:ident: Query) => {{
        let query: &QueryPointer = $value;
        query.as_ref().map(Argument::Query)
    }};
    ($value:ident: Plain) => {{
        let _ = $value;
        None
    }};
    ($value:ident: Slot) => {{
        let _: &SlotId = $value;
        None
    }};
    ($value:ident: Name) => {{
        let _: &&[u8] = $value;
        None
    }};
    ($value:ident: Room) => {{
        let _: &Room = $value;
        None
    }};
    // Pin, Secret, Data
    ($value:ident: $bytes:ident) => {{
        let _: &Input<'_> = $value;
        None
    }};
}

macro_rules! values_of {
    ($found:ident, $value:ident: Values) => {
        $found.push($value);
    };
    ($found:ident, $value:ident: $role:ident $($refusal:ident)?) => {
        let _ = $value;
    };
}

macro_rules! mechanism_of {
    ($value:ident: Mechanism) => {
        $value.as_mut()
    };
    ($value:ident: MessageMechanism) => {
        $value.as_mut()
    };
    ($value:ident: MessageParameter) => {
        Some($value)
    };
    ($value:ident: $role:ident $($refusal:ident)?) => {{
        let _ = $value;
        None
    }};
}

macro_rules! room_of {
    ($value:ident: Room) => {
        Some(*$value)
    };
    ($value:ident: $role:ident $($refusal:ident)?) => {{
        let _ = $value;
        None
    }};
}

macro_rules! handle_of {
    ($look:ident, $value:ident: Session) => {
        $look(Handle::Session($value))?;
    };
    ($look:ident, $value:ident: Slot) => {
        $look(Handle::Slot($value))?;
    };
    ($look:ident, $value:ident: KeyOrNone $refusal:ident) => {
        if $value.0 != 0 {
            $look(Handle::Object($value, CkRv::$refusal))?;
        }
    };
    ($look:ident, $value:ident: $role:ident $refusal:ident) => {
        $look(Handle::Object($value, CkRv::$refusal))?;
    };
    ($look:ident, $value:ident: Mechanism) => {
        handles::in_pointer($value, $look)?;
    };
    ($look:ident, $value:ident: MessageMechanism) => {
        handles::in_pointer($value, $look)?;
    };
    ($look:ident, $value:ident: MessageParameter) => {
        handles::in_mechanism($value, $look)?;
    };
    ($look:ident, $value:ident: $role:ident) => {
        let _ = $value;
    };
}

macro_rules! define_facts {
    ($(
        $name:ident($($argument:ident: $role:ident $(($refusal:ident))?),*)
        $([$step:ident of $($family:ident),+])?
        $(does [$($part:ident),+])?
        $(like $relative:ident)?
        $(: $($effect:ident),+)?;
    )*) => {
        impl Function {
            /// Returns the facts about the function.
            pub const fn facts(self) -> &'static Facts {
                match self {$(
                    Function::$name => &Facts {
                        roles: &[$(role!($role $($refusal)?)),*],
                        families: &[$($(Family::$family),+)?],
                        step: define_facts!(@step $($step)?),
                        effects: &[$($(Effect::$effect),+)?],
                        parts: &[$($(Function::$part),+)?],
                        relative: define_facts!(@relative $($relative)?),
                    }
                ),*}
            }
        }

        // One more would be passed to no rule.
        $(const _: () = {
            let names: &[&str] = &[$(stringify!($argument)),*];
            assert!(names.len() <= MOST_ARGUMENTS);
        };)*

        impl<'a> Call<'a> {
            /// The arguments that a rule may be about, in their order.
            pub fn arguments(&self) -> impl Iterator<Item = Argument<'_>> {
                let mut arguments: [Option<Argument<'_>>; MOST_ARGUMENTS] = [None; MOST_ARGUMENTS];
                let mut places = arguments.iter_mut();
                // A list for each function would take 5 KiB of the stack.
                let mut add = |argument| {
                    if let Some(place) = places.next() {
                        *place = argument;
                    }
                };
                match self {$(
                    Call::$name($($argument),*) => {
                        $(add(argument!($argument: $role $($refusal)?));)*
                    }
                ),*}
                arguments.into_iter().flatten()
            }

            /// The templates with values of an object that is made or changed, to be rewritten; also those that are
            /// NULL.
            pub fn values_mut(&mut self) -> Vec<&mut TemplatePointer> {
                let mut found: Vec<&mut TemplatePointer> = Vec::new();
                match self {$(
                    Call::$name($($argument),*) => {
                        $(values_of!(found, $argument: $role $($refusal)?);)*
                    }
                ),*}
                found
            }

            /// The mechanism of the call's operation, to be changed.
            pub fn mechanism_mut(&mut self) -> Option<&mut Mechanism> {
                match self {$(
                    Call::$name($($argument),*) => {
                        let found: Option<&mut Mechanism> = None;
                        $(let found = found.or(mechanism_of!($argument: $role $($refusal)?));)*
                        found
                    }
                ),*}
            }

            /// Passes each handle and slot in the call to `look`. Returns the error of `look`, if any.
            ///
            /// CKR_MECHANISM_PARAM_INVALID if the mechanism's parameter could not be decoded and might name a key.
            pub fn each_handle(&mut self, look: &mut Look<'_>) -> Result<(), CkRv> {
                match self {$(
                    Call::$name($($argument),*) => {
                        $(handle_of!(look, $argument: $role $($refusal)?);)*
                    }
                ),*}
                Ok(())
            }

            /// The room for what the call returns, if it returns bytes or a list.
            pub fn room(&self) -> Option<Room> {
                match self {$(
                    Call::$name($($argument),*) => {
                        let room: Option<Room> = None;
                        $(let room = room.or(room_of!($argument: $role $($refusal)?));)*
                        room
                    }
                ),*}
            }
        }

        #[cfg(test)]
        const ROWS: &[Function] = &[$(Function::$name),*];
    };
    (@step) => { None };
    (@step $step:ident) => { Some(Step::$step) };
    (@relative) => { None };
    (@relative $relative:ident) => { Some(Function::$relative) };
}

define_facts! {
    // The connection
    C_SetupArch(hello: Plain);
    C_LoadModule(alias: Name);

    // General purpose
    C_Initialize(flags: Plain);
    C_Finalize();
    C_GetInfo();

    // Slots and tokens
    C_GetSlotList(present: Plain, room: Room);
    C_GetSlotInfo(slot: Slot);
    C_GetTokenInfo(slot: Slot);
    C_WaitForSlotEvent(flags: Plain);
    C_GetMechanismList(slot: Slot, room: Room);
    C_GetMechanismInfo(slot: Slot, mechanism: MechanismType);
    C_InitToken(slot: Slot, pin: Pin, label: Data): Writes, Administers;
    C_InitPIN(session: Session, pin: NewPin): Writes, Administers;
    C_SetPIN(session: Session, old: Pin, new: NewPin): Writes;

    // Sessions
    C_OpenSession(slot: Slot, flags: Plain, notify: Plain);
    C_CloseSession(session: Session);
    C_CloseAllSessions(slot: Slot);
    C_GetSessionInfo(session: Session);
    C_GetOperationState(session: Session, room: Room) [Whole of OperationState]: Reveals;
    C_SetOperationState(session: Session, state: Secret,
        encryption: KeyOrNone(OBJECT_HANDLE_INVALID),
        authentication: KeyOrNone(OBJECT_HANDLE_INVALID));
    C_Login(session: Session, user: User, pin: Pin): LogsIn;
    C_Logout(session: Session);
    C_GetFunctionStatus(session: Session);
    C_CancelFunction(session: Session);

    // Objects
    C_CreateObject(session: Session, template: Values): Writes;
    C_CopyObject(session: Session, object: Object(OBJECT_HANDLE_INVALID), template: Values): Writes;
    C_DestroyObject(session: Session, object: Object(OBJECT_HANDLE_INVALID)): Writes;
    C_GetObjectSize(session: Session, object: Object(OBJECT_HANDLE_INVALID));
    C_GetAttributeValue(session: Session, object: Object(OBJECT_HANDLE_INVALID), template: Query):
        Reveals;
    C_SetAttributeValue(session: Session, object: Object(OBJECT_HANDLE_INVALID), template: Values):
        Writes;
    C_FindObjectsInit(session: Session, template: Selection) [Init of Search];
    C_FindObjects(session: Session, room: Room) [Update of Search];
    C_FindObjectsFinal(session: Session) [End of Search];

    // Encryption and decryption
    C_EncryptInit(session: Session, mechanism: Mechanism, key: Key(OBJECT_HANDLE_INVALID))
        [Init of Encrypt];
    C_Encrypt(session: Session, data: Secret, room: Room) [End of Encrypt];
    C_EncryptUpdate(session: Session, part: Secret, room: Room) [Update of Encrypt];
    C_EncryptFinal(session: Session, room: Room) [End of Encrypt];
    C_DecryptInit(session: Session, mechanism: Mechanism, key: Key(OBJECT_HANDLE_INVALID))
        [Init of Decrypt];
    C_Decrypt(session: Session, data: Data, room: Room) [End of Decrypt]: Reveals;
    C_DecryptUpdate(session: Session, part: Data, room: Room) [Update of Decrypt]: Reveals;
    C_DecryptFinal(session: Session, room: Room) [End of Decrypt]: Reveals;

    // Digests
    C_DigestInit(session: Session, mechanism: Mechanism) [Init of Digest];
    C_Digest(session: Session, data: Data, room: Room) [End of Digest];
    C_DigestUpdate(session: Session, part: Data) [Update of Digest];
    C_DigestKey(session: Session, key: Key(OBJECT_HANDLE_INVALID)) [Update of Digest];
    C_DigestFinal(session: Session, room: Room) [End of Digest];

    // Signatures
    C_SignInit(session: Session, mechanism: Mechanism, key: Key(OBJECT_HANDLE_INVALID))
        [Init of Sign];
    C_Sign(session: Session, data: Data, room: Room) [End of Sign];
    C_SignUpdate(session: Session, part: Data) [Update of Sign];
    C_SignFinal(session: Session, room: Room) [End of Sign];
    C_SignRecoverInit(session: Session, mechanism: Mechanism, key: Key(OBJECT_HANDLE_INVALID))
        [Init of SignRecover];
    C_SignRecover(session: Session, data: Data, room: Room) [End of SignRecover];
    C_VerifyInit(session: Session, mechanism: Mechanism, key: Key(OBJECT_HANDLE_INVALID))
        [Init of Verify];
    C_Verify(session: Session, data: Data, signature: Data) [End of Verify];
    C_VerifyUpdate(session: Session, part: Data) [Update of Verify];
    C_VerifyFinal(session: Session, signature: Data) [End of Verify];
    C_VerifyRecoverInit(session: Session, mechanism: Mechanism, key: Key(OBJECT_HANDLE_INVALID))
        [Init of VerifyRecover];
    C_VerifyRecover(session: Session, signature: Data, room: Room) [End of VerifyRecover]: Reveals;

    // Two operations at once
    C_DigestEncryptUpdate(session: Session, part: Secret, room: Room) [Update of Digest, Encrypt]
        does [C_DigestUpdate, C_EncryptUpdate];
    C_DecryptDigestUpdate(session: Session, part: Data, room: Room) [Update of Decrypt, Digest]
        does [C_DecryptUpdate, C_DigestUpdate]: Reveals;
    C_SignEncryptUpdate(session: Session, part: Secret, room: Room) [Update of Sign, Encrypt]
        does [C_SignUpdate, C_EncryptUpdate];
    C_DecryptVerifyUpdate(session: Session, part: Data, room: Room) [Update of Decrypt, Verify]
        does [C_DecryptUpdate, C_VerifyUpdate]: Reveals;

    // Keys
    C_GenerateKey(session: Session, mechanism: Mechanism, template: Values) [Whole of Generate]:
        Writes;
    C_GenerateKeyPair(session: Session, mechanism: Mechanism, public: Values, private: Values)
        [Whole of Generate]: Writes;
    C_WrapKey(session: Session, mechanism: Mechanism, wrapping: Key(WRAPPING_KEY_HANDLE_INVALID),
        key: Key(OBJECT_HANDLE_INVALID), room: Room) [Whole of Wrap];
    C_UnwrapKey(session: Session, mechanism: Mechanism,
        unwrapping: Key(UNWRAPPING_KEY_HANDLE_INVALID), wrapped: Data, template: Values)
        [Whole of Unwrap]: Writes;
    C_DeriveKey(session: Session, mechanism: Mechanism, base: Key(OBJECT_HANDLE_INVALID),
        template: Values) [Whole of Derive]: Writes, Reveals;

    // Random numbers
    C_SeedRandom(session: Session, seed: Secret);
    C_GenerateRandom(session: Session, room: Room): Reveals;

    // PKCS#11 v3.0
    C_LoginUser(session: Session, user: User, pin: Pin, name: Data) like C_Login: LogsIn;
    C_SessionCancel(session: Session, flags: Plain) like C_CancelFunction;
    C_MessageEncryptInit(session: Session, mechanism: MessageMechanism, key: Key(OBJECT_HANDLE_INVALID))
        [Init of Encrypt] like C_EncryptInit;
    C_EncryptMessage(session: Session, parameter: MessageParameter, associated: Data,
        plaintext: Secret, room: Room) [Update of Encrypt] like C_Encrypt;
    C_EncryptMessageBegin(session: Session, parameter: MessageParameter, associated: Data)
        [Update of Encrypt] like C_EncryptUpdate;
    C_EncryptMessageNext(session: Session, parameter: MessageParameter, part: Secret, room: Room,
        flags: Plain) [Update of Encrypt] like C_EncryptUpdate;
    C_MessageEncryptFinal(session: Session) [End of Encrypt] like C_EncryptFinal;
    C_MessageDecryptInit(session: Session, mechanism: MessageMechanism, key: Key(OBJECT_HANDLE_INVALID))
        [Init of Decrypt] like C_DecryptInit;
    C_DecryptMessage(session: Session, parameter: MessageParameter, associated: Data,
        ciphertext: Data, room: Room) [Update of Decrypt] like C_Decrypt: Reveals;
    C_DecryptMessageBegin(session: Session, parameter: MessageParameter, associated: Data)
        [Update of Decrypt] like C_DecryptUpdate;
    C_DecryptMessageNext(session: Session, parameter: MessageParameter, part: Data, room: Room,
        flags: Plain) [Update of Decrypt] like C_DecryptUpdate: Reveals;
    C_MessageDecryptFinal(session: Session) [End of Decrypt] like C_DecryptFinal;
    C_MessageSignInit(session: Session, mechanism: MessageMechanism, key: Key(OBJECT_HANDLE_INVALID))
        [Init of Sign] like C_SignInit;
    C_SignMessage(session: Session, parameter: MessageParameter, data: Data, room: Room)
        [Update of Sign] like C_Sign;
    C_SignMessageBegin(session: Session, parameter: MessageParameter)
        [Update of Sign] like C_SignUpdate;
    C_SignMessageNext(session: Session, parameter: MessageParameter, part: Data, room: Room)
        [Update of Sign] like C_SignUpdate;
    C_MessageSignFinal(session: Session) [End of Sign] like C_SignFinal;
    C_MessageVerifyInit(session: Session, mechanism: MessageMechanism, key: Key(OBJECT_HANDLE_INVALID))
        [Init of Verify] like C_VerifyInit;
    C_VerifyMessage(session: Session, parameter: MessageParameter, data: Data, signature: Data)
        [Update of Verify] like C_Verify;
    C_VerifyMessageBegin(session: Session, parameter: MessageParameter)
        [Update of Verify] like C_VerifyUpdate;
    C_VerifyMessageNext(session: Session, parameter: MessageParameter, part: Data, signature: Data)
        [Update of Verify] like C_VerifyUpdate;
    C_MessageVerifyFinal(session: Session) [End of Verify] like C_VerifyFinal;

    // PKCS#11 v3.2
    C_EncapsulateKey(session: Session, mechanism: Mechanism, key: Key(OBJECT_HANDLE_INVALID),
        template: Values, room: Room) [Whole of Derive] like C_DeriveKey: Writes;
    C_DecapsulateKey(session: Session, mechanism: Mechanism, key: Key(OBJECT_HANDLE_INVALID),
        template: Values, ciphertext: Data) [Whole of Derive] like C_DeriveKey: Writes;
    C_VerifySignatureInit(session: Session, mechanism: Mechanism, key: Key(OBJECT_HANDLE_INVALID),
        signature: Data) [Init of Verify] like C_VerifyInit;
    C_VerifySignature(session: Session, data: Data) [End of Verify] like C_Verify;
    C_VerifySignatureUpdate(session: Session, part: Data) [Update of Verify] like C_VerifyUpdate;
    C_VerifySignatureFinal(session: Session) [End of Verify] like C_VerifyFinal;
    C_GetSessionValidationFlags(session: Session, kind: Plain) like C_GetSessionInfo;
    C_AsyncComplete(session: Session, function: Data) like C_GetFunctionStatus: Reveals;
    C_AsyncGetID(session: Session, function: Data) like C_GetFunctionStatus;
    C_AsyncJoin(session: Session, function: Data, id: Plain, room: Room) like C_GetFunctionStatus;
    C_WrapKeyAuthenticated(session: Session, mechanism: Mechanism,
        wrapping: Key(WRAPPING_KEY_HANDLE_INVALID), key: Key(OBJECT_HANDLE_INVALID),
        associated: Data, room: Room) [Whole of Wrap] like C_WrapKey;
    C_UnwrapKeyAuthenticated(session: Session, mechanism: Mechanism,
        unwrapping: Key(UNWRAPPING_KEY_HANDLE_INVALID), wrapped: Data, template: Values,
        associated: Data) [Whole of Unwrap] like C_UnwrapKey: Writes;
}

impl Function {
    /// Whether its arguments may be, or contain, a PIN, a key or plaintext.
    pub fn takes_secrets(self) -> bool {
        self.facts().roles.iter().any(|role| role.is_secret())
    }

    /// Whether the token compares a PIN of the caller's with its own, so that the caller may guess it.
    pub fn compares_pin(self) -> bool {
        self.facts().roles.contains(&Role::Pin)
    }

    /// Whether its result may be a signature: raw decryption and unwrapping with a private key give one, too.
    pub fn may_sign(self) -> bool {
        let facts = self.facts();
        let returns_bytes = facts.roles.contains(&Role::Room);
        match facts.families {
            [Family::Sign | Family::SignRecover] => returns_bytes,
            [Family::Decrypt] => returns_bytes && self.older().facts().step == Some(Step::End),
            [Family::Unwrap] => true,
            _ => false,
        }
    }

    /// Whether its result may be, or contain, plaintext or a key.
    pub fn hands_out_secrets(self) -> bool {
        self.facts().has(Effect::Reveals)
    }

    /// What the mechanism parameters of its calls are for.
    pub fn parameter_use(self) -> Use {
        let has = |role| self.facts().roles.contains(&role);
        if has(Role::MessageMechanism) || has(Role::MessageParameter) {
            Use::Message
        } else if self.facts().is_of(Family::Wrap) || self.facts().is_of(Family::Unwrap) {
            Use::Wrap
        } else {
            Use::Operation
        }
    }

    /// The function whose rules count for it: an older relative, or itself.
    pub fn older(self) -> Function {
        self.facts().relative.unwrap_or(self)
    }

    /// Whether it uses an existing key.
    pub fn uses_keys(self) -> bool {
        let is_key = |role: &Role| matches!(role, Role::Key(_) | Role::KeyOrNone(_));
        self.facts().roles.iter().any(is_key)
    }
}

/// Returns the value in an argument if it has this role. With this, accessors for one role need no list of the others.
macro_rules! only {
    ($argument:expr, $pattern:pat => $value:expr) => {
        if let $pattern = $argument {
            Some($value)
        } else {
            None
        }
    };
}

impl Call<'_> {
    /// The session that the call is made in, if it is made in one.
    pub fn session(&self) -> Option<SessionHandle> {
        self.arguments()
            .find_map(|argument| only!(argument, Argument::Session(session) => session))
    }

    /// The mechanism of the call's operation.
    pub fn mechanism(&self) -> Option<&Mechanism> {
        self.arguments()
            .find_map(|argument| only!(argument, Argument::Mechanism(mechanism) => mechanism))
    }

    /// The keys that the call uses, except those in its mechanism's parameter.
    pub fn keys(&self) -> impl Iterator<Item = ObjectHandle> {
        self.arguments()
            .filter_map(|argument| only!(argument, Argument::Key(key, _) => key))
    }

    /// The templates with values of an object that is made or changed.
    pub fn values(&self) -> impl Iterator<Item = &Template> {
        self.arguments()
            .filter_map(|argument| only!(argument, Argument::Values(template) => template))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(having: impl Fn(Function) -> bool) -> Vec<&'static str> {
        let all = Function::ALL.iter().copied();
        all.filter(|function| having(*function))
            .map(Function::name)
            .collect()
    }

    #[test]
    fn each_function_has_one_row() {
        let mut rows: Vec<&str> = ROWS.iter().map(|function| function.name()).collect();
        let mut all: Vec<&str> = Function::ALL
            .iter()
            .map(|function| function.name())
            .collect();
        rows.sort_unstable();
        all.sort_unstable();
        assert_eq!(rows, all);
    }

    /// The lists are written by hand, so that they check the table.
    #[test]
    fn secrets_go_in_and_out_where_they_should() {
        assert_eq!(
            names(Function::takes_secrets),
            [
                "C_Login",
                "C_InitPIN",
                "C_SetPIN",
                "C_SeedRandom",
                "C_InitToken",
                "C_FindObjectsInit",
                "C_GenerateKey",
                "C_GenerateKeyPair",
                "C_CreateObject",
                "C_CopyObject",
                "C_SetAttributeValue",
                "C_WrapKey",
                "C_UnwrapKey",
                "C_DeriveKey",
                "C_DigestInit",
                "C_SignInit",
                "C_VerifyInit",
                "C_EncryptInit",
                "C_Encrypt",
                "C_EncryptUpdate",
                "C_DecryptInit",
                "C_SignRecoverInit",
                "C_VerifyRecoverInit",
                "C_DigestEncryptUpdate",
                "C_SignEncryptUpdate",
                "C_SetOperationState",
                "C_LoginUser",
                "C_MessageEncryptInit",
                "C_EncryptMessage",
                "C_EncryptMessageNext",
                "C_MessageDecryptInit",
                "C_MessageSignInit",
                "C_MessageVerifyInit",
                "C_EncapsulateKey",
                "C_DecapsulateKey",
                "C_VerifySignatureInit",
                "C_WrapKeyAuthenticated",
                "C_UnwrapKeyAuthenticated",
            ]
        );
        assert_eq!(
            names(Function::hands_out_secrets),
            [
                "C_GenerateRandom",
                "C_GetAttributeValue",
                "C_DeriveKey",
                "C_Decrypt",
                "C_DecryptUpdate",
                "C_DecryptFinal",
                "C_VerifyRecover",
                "C_DecryptDigestUpdate",
                "C_DecryptVerifyUpdate",
                "C_GetOperationState",
                "C_DecryptMessage",
                "C_DecryptMessageNext",
                "C_AsyncComplete",
            ]
        );
    }

    #[test]
    fn names_what_may_make_a_signature() {
        assert_eq!(
            names(Function::may_sign),
            [
                "C_UnwrapKey",
                "C_Sign",
                "C_SignFinal",
                "C_Decrypt",
                "C_DecryptFinal",
                "C_SignRecover",
                "C_DecryptMessage",
                "C_SignMessage",
                "C_SignMessageNext",
                "C_UnwrapKeyAuthenticated",
            ]
        );
    }

    #[test]
    fn names_what_logs_in_writes_and_administers() {
        let having = |effect| names(move |function| function.facts().has(effect));
        assert_eq!(having(Effect::LogsIn), ["C_Login", "C_LoginUser"]);
        assert_eq!(having(Effect::Administers), ["C_InitPIN", "C_InitToken"]);
        assert_eq!(
            names(Function::compares_pin),
            ["C_Login", "C_SetPIN", "C_InitToken", "C_LoginUser"]
        );
        assert_eq!(
            having(Effect::Writes),
            [
                "C_InitPIN",
                "C_SetPIN",
                "C_InitToken",
                "C_GenerateKey",
                "C_GenerateKeyPair",
                "C_CreateObject",
                "C_CopyObject",
                "C_DestroyObject",
                "C_SetAttributeValue",
                "C_UnwrapKey",
                "C_DeriveKey",
                "C_EncapsulateKey",
                "C_DecapsulateKey",
                "C_UnwrapKeyAuthenticated",
            ]
        );
    }

    /// A rule about a function of v2.20 also applies to its younger relatives, so each younger function must have a
    /// relative.
    #[test]
    fn each_younger_function_has_a_relative_with_the_same_effects() {
        for function in Function::ALL.iter().copied() {
            let facts = function.facts();
            let is_young = function.number() >= 100;
            assert_eq!(facts.relative.is_some(), is_young, "{}", function.name());
            let older = function.older().facts();
            assert!(older.relative.is_none(), "{}", function.name());
            if function.older() != Function::C_GetFunctionStatus {
                assert_eq!(facts.families, older.families, "{}", function.name());
            }
            for effect in [Effect::LogsIn, Effect::Writes, Effect::Administers] {
                assert_eq!(facts.has(effect), older.has(effect), "{}", function.name());
            }
        }
    }

    #[test]
    fn a_call_gives_its_arguments_by_their_roles() {
        let template = || Some(Template::default());
        let call = Call::C_UnwrapKey(
            SessionHandle(1),
            Some(Mechanism::default()),
            ObjectHandle(2),
            Input::Bytes(b"wrapped"),
            template(),
        );
        assert_eq!(call.session(), Some(SessionHandle(1)));
        assert!(call.mechanism().is_some());
        assert_eq!(call.keys().collect::<Vec<_>>(), [ObjectHandle(2)]);
        assert_eq!(call.values().count(), 1);
        let state = Call::C_SetOperationState(
            SessionHandle(1),
            Input::NULL,
            ObjectHandle(0),
            ObjectHandle(3),
        );
        assert_eq!(state.keys().collect::<Vec<_>>(), [ObjectHandle(3)]);
        let mut pair = Call::C_GenerateKeyPair(
            SessionHandle(1),
            Some(Mechanism::default()),
            template(),
            template(),
        );
        assert_eq!(pair.values_mut().len(), 2);
        let search = Call::C_FindObjectsInit(SessionHandle(1), template());
        assert_eq!(search.values().count(), 0);
    }
}
