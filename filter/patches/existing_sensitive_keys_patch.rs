//! `dangerous_sensitive_keys_*`: restricts keys that are sensitive but were once readable (CKA_ALWAYS_SENSITIVE is
//! false). Somebody may know them. They may only be used for key escrow, or not at all.

use xdr::{Call, CkRv, ObjectHandle, SessionHandle};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean};
use crate::patches::{Refused, judge_keys};

/// Which of these keys may be used. Keys that the token made may never be used: there was no reason to make them
/// readable.
#[derive(Clone, Copy)]
pub enum Escrow {
    /// `dangerous_sensitive_keys_paranoid`: none.
    Nothing,
    /// `dangerous_sensitive_keys_escrow_encrypt`: those that encrypt or decrypt.
    EncryptionKeys,
    /// `dangerous_sensitive_keys_escrow_all`: all.
    AllKeys,
}

impl Escrow {
    fn blocks(self, key: Attributes) -> bool {
        let has = |boolean| key.booleans.has((boolean, true));
        let was_known =
            has(Boolean::Sensitive) && key.booleans.has((Boolean::AlwaysSensitive, false));
        was_known
            && match self {
                Escrow::Nothing => true,
                Escrow::EncryptionKeys => {
                    has(Boolean::Local) || !has(Boolean::Encrypt) && !has(Boolean::Decrypt)
                }
                Escrow::AllKeys => has(Boolean::Local),
            }
    }
}

impl Action for Escrow {
    fn judges_templates(&self) -> bool {
        false
    }

    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        let judge = |key| match self.blocks(key) {
            true => Err(Refused::new(
                CkRv::OBJECT_HANDLE_INVALID,
                "the key is sensitive now, but was not always",
            )),
            false => Ok(()),
        };
        Refused::verdict(judge_keys(call, context, judge), context)
    }

    fn hides(&self, session: SessionHandle, object: ObjectHandle, context: &Context<'_>) -> bool {
        let attributes = context.objects.attributes(session, object);
        attributes.map_or(true, |it| self.blocks(it))
    }
}
