//! Answers C_GetMechanismList without the mechanisms that are forbidden.

use xdr::{Call, CkRv, MechanismListResult, MechanismType, Reply, SlotId, Ulong};

use crate::context::Context;
use crate::log;

/// The answer to C_GetMechanismList: the module's list without the forbidden mechanisms, in the
/// module's order. The number of mechanisms and the room that is needed are those of this list.
pub(crate) fn without_forbidden(
    slot: SlotId,
    count: Ulong,
    context: &Context<'_>,
) -> MechanismListResult {
    let ask = |count| {
        let reply = context.backend.call(Call::C_GetMechanismList(slot, count));
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
    let size = ask(Ulong(0));
    let list = ask(if size.rv.is_ok() { size.count } else { count });
    if !list.rv.is_ok() {
        return MechanismListResult {
            rv: list.rv,
            mechanisms: Vec::new(),
            count,
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
    let number = mechanisms.len() as u64;
    let rv = match count.0 {
        room if room >= number => list.rv,
        0 => CkRv::OK,
        _ => CkRv::BUFFER_TOO_SMALL,
    };
    if number > count.0 {
        mechanisms.clear();
    }
    MechanismListResult {
        rv,
        mechanisms,
        count: Ulong(number),
    }
}
