//! Answers C_GetMechanismList without the forbidden mechanisms.

use xdr::{Call, CkRv, MechanismListResult, MechanismType, Reply, Room, SlotId};

use crate::context::Context;
use crate::log;
use crate::room::{length_before, within};

/// The answer to C_GetMechanismList: the module's list without the forbidden mechanisms, in the
/// module's order. The number of mechanisms and the room that is needed are those of this list.
pub(crate) fn without_forbidden(
    slot: SlotId,
    room: Room,
    context: &Context<'_>,
) -> MechanismListResult {
    let ask = |room| {
        let reply = context.backend.call(Call::C_GetMechanismList(slot, room));
        let rv = reply.rv();
        if let Reply::C_GetMechanismList(list) = reply {
            list
        } else {
            MechanismListResult {
                rv,
                ..Default::default()
            }
        }
    };
    // If the client's room is not valid, the module says what is wrong with it.
    let size = match room {
        Room::NoLength => ask(room),
        Room::Null { .. } | Room::Buffer(_) | Room::Unbounded => ask(Room::QUESTION),
    };
    let list = match size.rv {
        CkRv::OK if room != Room::NoLength => ask(Room::Buffer(size.count.0)),
        _ => ask(room),
    };
    if !list.rv.is_ok() || room == Room::NoLength {
        return MechanismListResult {
            rv: list.rv,
            mechanisms: Vec::new(),
            count: length_before(room),
        };
    }
    let log = |text: &str, mechanisms: &[MechanismType]| {
        if context.debug >= 1 {
            let names: Vec<String> = mechanisms.iter().copied().map(log::mechanism).collect();
            context.log(format_args!("mechanisms {text}: {}", names.join(" ")));
        }
    };
    let mut mechanisms = list.mechanisms;
    log("before filtering", &mechanisms);
    mechanisms.retain(|mechanism| context.rules.forbids(*mechanism).is_none());
    log("after filtering", &mechanisms);
    let (rv, count, mechanisms) = within(room, mechanisms);
    MechanismListResult {
        rv,
        mechanisms,
        count,
    }
}
