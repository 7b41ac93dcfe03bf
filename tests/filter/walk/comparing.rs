//! Makes a call to both daemons and compares the replies, apart from the rows of differences that are allowed.

use xdr::Ulong;
use xdr::version3::{Call, Reply};

use super::{Compare, Unexpected, Walk, describe::describe, short};
use crate::rows::{self, Case, ROWS, Row};
use crate::support::cryptoki::cka;
use crate::support::raw::Answer;

/// Values that differ between keys made on both sides.
pub(super) const OF_THE_KEY: &[u64] = &[
    cka::VALUE,
    cka::MODULUS,
    cka::PRIVATE_EXPONENT,
    cka::PRIME_1,
    cka::PRIME_2,
    cka::EXPONENT_1,
    cka::EXPONENT_2,
    cka::COEFFICIENT,
    cka::EC_POINT,
];

impl Walk<'_> {
    pub(super) fn call(&mut self, call: Call<'_>) -> Option<Reply> {
        self.call_as(call, Compare::Exactly)
    }

    /// Begins an operation. Where that fails another may be active, which may have chance in it.
    pub(super) fn after(&mut self, init: Call<'_>, how: Compare) -> Compare {
        match self.call(init) {
            Some(reply) if reply.rv().is_ok() => how,
            _ => Compare::Shape,
        }
    }

    /// The original's reply, unless the episode ended with it.
    pub(super) fn call_as(&mut self, call: Call<'_>, how: Compare) -> Option<Reply> {
        if self.over {
            return None;
        }
        self.calls += 1;
        self.trace.push(describe(&call));
        let [theirs, ours] = self.both.call(call.clone());
        let seen = (self.shape(&theirs, how), self.shape(&ours, how));
        if seen.0 != seen.1 {
            // Chance is not to hide what a row allows.
            let as_seen = |seen: Option<Reply>, answer| seen.map_or(answer, Answer::Reply);
            self.differ(&call, as_seen(seen.0, theirs), as_seen(seen.1, ours));
            return None;
        }
        match theirs {
            Answer::Reply(reply) => {
                self.succeeded += usize::from(reply.rv().is_ok());
                let makes = matches!(
                    reply,
                    Reply::C_CreateObject(_)
                        | Reply::C_CopyObject(_)
                        | Reply::C_GenerateKey(_)
                        | Reply::C_GenerateKeyPair(_)
                        | Reply::C_UnwrapKey(_)
                        | Reply::C_DeriveKey(_)
                );
                self.leftovers |= makes && !reply.rv().is_ok();
                // Both refuse it with one code, the original in the module, which may have made
                // something by then.
                if !reply.rv().is_ok() && rows::is_unusual(&call, self.architecture) {
                    self.over = true;
                }
                Some(reply)
            }
            _ => {
                self.over = true;
                None
            }
        }
    }

    pub(super) fn differ(&mut self, call: &Call<'_>, theirs: Answer, ours: Answer) {
        let case = Case {
            configuration: self.configuration.name,
            call,
            theirs: &theirs,
            ours: &ours,
            architecture: self.architecture,
        };
        let row = ROWS.iter().position(|row: &Row| (row.applies)(&case));
        match row {
            Some(position) => {
                self.seen[position] += 1;
                self.over = !ROWS[position].goes_on;
            }
            None => {
                self.over = true;
                let difference = (call.function().name(), short(&theirs), short(&ours));
                if let Some(known) = self
                    .unexpected
                    .iter_mut()
                    .find(|known| known.what == difference)
                {
                    known.count += 1;
                    return;
                }
                let before: Vec<&str> = self
                    .trace
                    .iter()
                    .rev()
                    .take(14)
                    .rev()
                    .map(String::as_str)
                    .collect();
                self.unexpected.push(Unexpected {
                    what: difference,
                    count: 1,
                    first: format!(
                        "{}, architecture {}\n    {}\n  original {theirs:?}\n  ours     {ours:?}",
                        self.configuration.name,
                        self.architecture.0,
                        before.join("\n    ")
                    ),
                });
            }
        }
    }

    /// A reply without what is chance.
    fn shape(&self, answer: &Answer, how: Compare) -> Option<Reply> {
        let Answer::Reply(reply) = answer else {
            return None;
        };
        let mut reply = reply.clone();
        if let Reply::C_FindObjects(result) = &mut reply {
            // Those of failed calls.
            if self.leftovers {
                result
                    .objects
                    .retain(|handle| self.objects.iter().any(|known| known.handle == *handle));
                result.count = Ulong(0);
            }
            return Some(reply);
        }
        if how == Compare::Exactly {
            return Some(reply);
        }
        match &mut reply {
            Reply::C_GetAttributeValue(result) => {
                for attribute in &mut result.template.0 {
                    if OF_THE_KEY.contains(&attribute.attribute_type.0)
                        && !attribute.value.is_empty()
                    {
                        attribute.value = vec![0];
                        attribute.value_len = Ulong(1);
                    }
                }
            }
            Reply::C_GetTokenInfo(result) => {
                let info = &mut result.info;
                info.utc_time.fill(0);
                info.free_public_memory = Ulong(0);
                info.free_private_memory = Ulong(0);
            }
            Reply::C_WrapKey(result) => {
                // The format's attributes, between the blob and 16 bytes of MAC, are no chance.
                let length = result.data.len();
                let from = if self.configuration.wrapping_format {
                    length.saturating_sub(30)
                } else {
                    length
                };
                let to = length.saturating_sub(16).max(from);
                let mut data = result.data.to_vec();
                for (position, byte) in data.iter_mut().enumerate() {
                    if !(from..to).contains(&position) {
                        *byte = 0;
                    }
                }
                result.data = data.into();
            }
            Reply::C_Encrypt(result)
            | Reply::C_EncryptUpdate(result)
            | Reply::C_EncryptFinal(result)
            | Reply::C_Sign(result)
            | Reply::C_SignFinal(result)
            | Reply::C_DigestFinal(result)
            | Reply::C_GenerateRandom(result) => result.data.wipe(),
            _ => {}
        }
        Some(reply)
    }
}
