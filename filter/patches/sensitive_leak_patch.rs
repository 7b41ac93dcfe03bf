//! `prevent_sensitive_leak_patch`: forbids to read the values of keys, and to write attributes that say where a key is
//! from.

use cryptoki_sys::*;
use xdr::word_size::narrow;
use xdr::{
    Answer, Answers, AttributeType, AttributesResult, Call, CkRv, Found, Function, ObjectHandle,
    Query, Reply, SessionHandle, Template, Wanted, WantedRoom,
};

use crate::actions::{Action, Context, Verdict};
use crate::attributes::{Attributes, Boolean, Class, is_same};
use crate::patches::{Refused, unreadable};

/// Attributes that reveal a key. The original has only the first seven: it looks for the first of them in all keys
/// except RSA private keys, and for the other six only in RSA private keys.
const VALUES: [CK_ATTRIBUTE_TYPE; 15] = [
    CKA_VALUE,
    CKA_PRIVATE_EXPONENT,
    CKA_PRIME_1,
    CKA_PRIME_2,
    CKA_EXPONENT_1,
    CKA_EXPONENT_2,
    CKA_COEFFICIENT,
    CKA_SEED,
    CKA_X2RATCHET_CKR,
    CKA_X2RATCHET_CKS,
    CKA_X2RATCHET_HKR,
    CKA_X2RATCHET_HKS,
    CKA_X2RATCHET_NHKR,
    CKA_X2RATCHET_NHKS,
    CKA_X2RATCHET_RK,
];

/// Attributes that only the token may set. The original lets a client set CKA_LOCAL.
const PROVENANCE: [Boolean; 3] = [
    Boolean::AlwaysSensitive,
    Boolean::NeverExtractable,
    Boolean::Local,
];

/// Whether this attribute reveals a key.
pub(crate) fn is_value(attribute_type: AttributeType) -> bool {
    VALUES.contains(&narrow(attribute_type.0))
}

/// Whether a template has an attribute that reveals a key, or a template inside it has.
pub(crate) fn names_a_value(template: &Template) -> bool {
    let mut attributes = template.0.iter();
    attributes.any(|it| is_value(it.attribute_type) || it.nested().is_some_and(names_a_value))
}

/// Whether the answer to this question may reveal a key. For an array, only the module knows which attributes it has.
fn asks_for_values(wanted: &Wanted) -> bool {
    is_value(wanted.attribute_type) || matches!(wanted.room, WantedRoom::Template(_))
}

/// Removes attributes that reveal a key from an answer. Returns whether there were any.
fn withhold(answer: &mut Answer) -> bool {
    if is_value(answer.attribute_type) {
        answer.found = Found::Unavailable;
        return true;
    }
    let mut is_withheld = false;
    if let Found::Template(inside) = &mut answer.found {
        for answer in &mut inside.0 {
            is_withheld |= withhold(answer);
        }
    }
    is_withheld
}

/// Whether an object's values are kept from the client. They are if the object has CKA_SENSITIVE or CKA_EXTRACTABLE,
/// with any value, or if it is of a class that should have them. That the values of extractable keys are kept, too, was
/// a mistake of the original, but sites rely on it.
fn is_kept(object: Attributes) -> bool {
    let has_either = object.booleans.mentions(Boolean::Sensitive)
        || object.booleans.mentions(Boolean::Extractable);
    has_either
        || object
            .class
            .is_none_or(|class| class.is_key() && class != Class::PUBLIC_KEY)
}

/// The action.
pub struct SensitiveLeak;

impl Action for SensitiveLeak {
    fn judge(&self, call: &Call<'_>, context: &Context<'_>) -> Verdict {
        if let Call::C_GetAttributeValue(session, object, Some(query)) = call {
            read(context, *session, *object, query)
        } else if let Call::C_SetAttributeValue(session, object, Some(template)) = call {
            let result = judge_written(context, *session, *object, template);
            Refused::verdict(result, context)
        } else {
            Verdict::Continue
        }
    }

    /// If a search by the value of a key found the key, it would confirm a guess of that value.
    fn watches(&self, function: Function, template: &Template) -> bool {
        function == Function::C_GetAttributeValue && names_a_value(template)
    }

    fn hides(&self, session: SessionHandle, object: ObjectHandle, context: &Context<'_>) -> bool {
        context
            .objects
            .attributes(session, object)
            .map_or(true, is_kept)
    }
}

fn read(
    context: &Context<'_>,
    session: SessionHandle,
    object: ObjectHandle,
    query: &Query,
) -> Verdict {
    let attributes = match context.objects.attributes(session, object) {
        Ok(attributes) => attributes,
        // The attributes are returned as the client sent them, as for any call that fails.
        Err(rv) => {
            let rv = unreadable(rv, CkRv::ATTRIBUTE_VALUE_INVALID);
            let answers = query.0.iter().map(as_it_came).collect();
            return Verdict::Decide(with(rv, answers));
        }
    };
    if !query.0.iter().any(asks_for_values) || !is_kept(attributes) {
        return Verdict::Continue;
    }
    let is_asked = |wanted: &&Wanted| !is_value(wanted.attribute_type);
    let others = query.0.iter().filter(is_asked);
    let others: Vec<Wanted> = others.cloned().collect();
    let count = others.len();
    let (rv, mut others) = if others.is_empty() {
        (CkRv::OK, Vec::new())
    } else {
        let told = context.objects.query(session, object, Query(others));
        (told.rv, told.answers.0)
    };
    if others.len() != count {
        return context.refuse(
            CkRv::GENERAL_ERROR,
            format_args!("the module returned fewer attributes than were asked for"),
        );
    }
    let mut is_withheld = count != query.0.len();
    for answer in &mut others {
        is_withheld |= withhold(answer);
    }
    let rv = match rv {
        rv if !is_withheld => rv,
        CkRv::OK
        | CkRv::ATTRIBUTE_SENSITIVE
        | CkRv::ATTRIBUTE_TYPE_INVALID
        | CkRv::BUFFER_TOO_SMALL => CkRv::ATTRIBUTE_SENSITIVE,
        other => other,
    };
    let mut others = others.into_iter();
    let answer = |wanted: &Wanted| {
        if is_value(wanted.attribute_type) {
            Some(unavailable(wanted.attribute_type))
        } else {
            others.next()
        }
    };
    let answers = query.0.iter().filter_map(answer).collect();
    if is_withheld {
        let name = context.function.name();
        context.log(format_args!("{name}: the value of a key is withheld, {rv}"));
    }
    let reply = with(rv, answers);
    match is_withheld {
        true => Verdict::Refuse(reply),
        false => Verdict::Decide(reply),
    }
}

fn unavailable(attribute_type: AttributeType) -> Answer {
    Answer {
        attribute_type,
        found: Found::Unavailable,
    }
}

/// Answers that an attribute was left as it was.
fn as_it_came(wanted: &Wanted) -> Answer {
    let found = match &wanted.room {
        WantedRoom::Buffer {
            content: Some(content),
            ..
        } => Found::Bytes(content.clone()),
        WantedRoom::Null { length } => Found::Length(*length),
        WantedRoom::Buffer { content: None, .. } | WantedRoom::Template(_) => Found::Untouched,
    };
    Answer {
        attribute_type: wanted.attribute_type,
        found,
    }
}

fn with(rv: CkRv, answers: Vec<Answer>) -> Reply {
    let answers = Answers(answers);
    Reply::C_GetAttributeValue(AttributesResult { rv, answers })
}

fn judge_written(
    context: &Context<'_>,
    session: SessionHandle,
    object: ObjectHandle,
    template: &Template,
) -> Result<(), Refused> {
    let attributes = context.objects.attributes(session, object);
    let attributes = attributes.map_err(|rv| Refused::unreadable(rv, CkRv::ATTRIBUTE_READ_ONLY))?;
    if names_a_value(template) && is_kept(attributes) {
        let reason = "a new value of a key";
        return Err(Refused::new(CkRv::ATTRIBUTE_READ_ONLY, reason));
    }
    let is_named = |it: &&Boolean| {
        let attribute_type = it.attribute_type();
        let mut said = template.0.iter().map(|said| said.attribute_type);
        said.any(|said| is_same(said, attribute_type))
    };
    match PROVENANCE.iter().find(is_named) {
        Some(boolean) => Err(Refused::new(
            CkRv::ATTRIBUTE_READ_ONLY,
            format!("{} is set by the token only", boolean.name()),
        )),
        None => Ok(()),
    }
}
