//! `dangerous_sensitive_keys_*`: a sensitive key that was not always so has been known outside, and
//! is used for what the site's key escrow needs or for nothing.

use xdr::{Call, CkRv, ObjectHandle, SessionHandle};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean};
use crate::patches::{UNKNOWN_PARAMETER, keys_used, refuse_unreadable};

/// Which of these keys may be used. None that the token made: there is no reason for it to have
/// been readable.
#[derive(Clone, Copy)]
pub enum Escrow {
    /// `dangerous_sensitive_keys_paranoid`
    Nothing,
    /// `dangerous_sensitive_keys_escrow_encrypt`: those that encrypt or decrypt.
    EncryptionKeys,
    /// `dangerous_sensitive_keys_escrow_all`
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
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        let (session, keys) = match keys_used(call) {
            Ok(Some(used)) => used,
            Ok(None) => return Verdict::Continue,
            Err(rv) => return context.refuse(rv, format_args!("{UNKNOWN_PARAMETER}")),
        };
        for key in keys {
            match context.objects.attributes(session, key) {
                Ok(attributes) if self.blocks(attributes) => {
                    return context.refuse(
                        CkRv::OBJECT_HANDLE_INVALID,
                        format_args!("the key is sensitive and was not always"),
                    );
                }
                Ok(_) => {}
                Err(rv) => {
                    return refuse_unreadable(context, rv, CkRv::OBJECT_HANDLE_INVALID);
                }
            }
        }
        Verdict::Continue
    }

    fn hides(&self, session: SessionHandle, object: ObjectHandle, context: &Context<'_>) -> bool {
        let attributes = context.objects.attributes(session, object);
        attributes.is_err() || attributes.is_ok_and(|it| self.blocks(it))
    }
}
