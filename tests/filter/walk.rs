//! Makes a random walk through PKCS#11 from a seed: the same calls to both daemons, compared reply by reply.
//!
//! The walk has episodes. Each begins with new connections and the original token. A difference ends the episode,
//! because handles may differ from there on. Half of the episodes are hostile: booleans that are none, attributes given
//! twice, searches left open.
//!
//! `situations` are played first. `steps` then makes the random calls, with arguments that `material` chooses.
//! `comparing` sends them and compares; `describe` writes a call into the report.

mod comparing;
mod describe;
mod material;
mod situations;
mod steps;

use xdr::version3::{Call, Reply};
use xdr::{Architecture, ObjectHandle, SessionHandle, SlotId, Ulong};

use crate::base::{self, Kind};
use crate::configurations::Configuration;
use crate::random::Random;
use crate::rows::ROWS;
use crate::support::cryptoki::{cka, template};
use crate::support::raw::{Answer, Both};
use crate::support::{Maker, Token};

use situations::SITUATIONS;

type Attributes = Vec<(u64, Vec<u8>)>;

#[derive(Clone)]
struct Object {
    handle: ObjectHandle,
    kind: Kind,
    /// Made by a generator, so that its value is another on each side.
    random: bool,
}

/// How a reply is compared.
#[derive(Clone, Copy, PartialEq)]
enum Compare {
    /// Byte by byte.
    Exactly,
    /// Data by their length, values of keys by whether there are any.
    Shape,
}

/// Differences of one sort that no row allows.
pub struct Unexpected {
    what: (&'static str, String, String),
    count: usize,
    first: String,
}

impl std::fmt::Display for Unexpected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (function, theirs, ours) = &self.what;
        write!(
            f,
            "{} times {function}: the original {theirs}, ours {ours}; first under {}",
            self.count, self.first
        )
    }
}

fn short(answer: &Answer) -> String {
    match answer {
        Answer::Reply(reply) => format!("{:?}", reply.rv()),
        other => format!("{other:?}"),
    }
}

pub struct Walk<'a> {
    configuration: &'a Configuration,
    random: Random,
    base: &'a Token,
    both: Both,
    architecture: Architecture,
    slot: SlotId,
    sessions: Vec<SessionHandle>,
    objects: Vec<Object>,
    blobs: Vec<Vec<u8>>,
    ciphertexts: Vec<Vec<u8>>,
    hostile: bool,
    logged_in: bool,
    over: bool,
    /// Whether a call failed that may have left an object behind: SoftHSM does that. Such objects get
    /// their handles when they are found, in an order of its own.
    leftovers: bool,
    trace: Vec<String>,
    calls: usize,
    succeeded: usize,
    /// How often each row of the table was needed.
    pub seen: Vec<usize>,
    /// How often in the situations alone, which no chance is in.
    pub shown: Vec<usize>,
    /// Differences without a row.
    pub unexpected: Vec<Unexpected>,
}

const NO_OBJECT: ObjectHandle = ObjectHandle(4242);

impl<'a> Walk<'a> {
    pub fn new(
        makers: [Maker; 2],
        configuration: &'a Configuration,
        base: &'a Token,
        seed: u64,
    ) -> Walk<'a> {
        Walk {
            configuration,
            random: Random::new(seed),
            base,
            both: Both::of(makers, &configuration.rules),
            architecture: Architecture::LITTLE_64,
            slot: SlotId(0),
            sessions: Vec::new(),
            objects: Vec::new(),
            blobs: Vec::new(),
            ciphertexts: Vec::new(),
            hostile: false,
            logged_in: false,
            over: true,
            leftovers: false,
            trace: Vec::new(),
            calls: 0,
            succeeded: 0,
            seen: vec![0; ROWS.len()],
            shown: Vec::new(),
            unexpected: Vec::new(),
        }
    }

    /// Makes at least that many calls, after the situations that a walk seldom comes to.
    pub fn go(&mut self, calls: usize) {
        for (architecture, situation) in SITUATIONS {
            self.begin(*architecture, false);
            situation(self);
        }
        self.shown = self.seen.clone();
        self.calls = 0;
        let mut left = 0;
        while self.calls < calls {
            if self.over || left == 0 {
                use Architecture as A;
                let others = [
                    A::LITTLE_64,
                    A::LITTLE_64,
                    A::LITTLE_64,
                    A::LITTLE_32,
                    A::BIG_64,
                    A::BIG_32,
                ];
                let architecture = *self.random.pick(&others);
                let early = self.random.once_in(6);
                self.begin(architecture, early);
                left = 100 + self.random.below(100);
            }
            left -= 1;
            self.step();
        }
        println!(
            "{}: {} calls, {} succeeded",
            self.configuration.name, self.calls, self.succeeded
        );
        for (row, count) in ROWS.iter().zip(&self.seen).filter(|(_, count)| **count > 0) {
            println!("  {} {count} times", row.number);
        }
    }

    /// New connections, and everything up to the known objects' handles; `early`: with a call before
    /// there is a module.
    fn begin(&mut self, architecture: Architecture, early: bool) {
        self.both.theirs.restore(self.base);
        self.both.ours.restore(self.base);
        self.trace.clear();
        self.sessions.clear();
        self.objects.clear();
        self.over = false;
        self.leftovers = false;
        self.hostile = self.random.once_in(2);
        self.architecture = architecture;
        self.call(Call::C_SetupArch(self.architecture));
        if early {
            self.anything_before_the_module();
        }
        self.call(Call::C_LoadModule(b"softhsm"));
        self.call(Call::C_Initialize());
        match self.call(Call::C_GetSlotList(Ulong(1), xdr::Count(9))) {
            Some(Reply::C_GetSlotList(list)) if !list.slots.is_empty() => self.slot = list.slots[0],
            _ => return,
        }
        for flags in [6, 6, 4] {
            self.open(flags);
        }
        self.login();
        for (label, kind) in base::OBJECTS {
            let session = self.sessions.first().copied().unwrap_or(SessionHandle(1));
            self.call(Call::C_FindObjectsInit(
                session,
                template(&[(cka::LABEL, label.as_bytes())]),
            ));
            if let Some(Reply::C_FindObjects(found)) =
                self.call(Call::C_FindObjects(session, Ulong(9)))
            {
                let object = |handle: &ObjectHandle| Object {
                    handle: *handle,
                    kind: *kind,
                    random: false,
                };
                self.objects.extend(found.objects.iter().map(object));
            }
            self.call(Call::C_FindObjectsFinal(session));
        }
    }

    fn anything_before_the_module(&mut self) {
        let session = SessionHandle(1);
        match self.random.below(5) {
            0 => drop(self.call(Call::C_Initialize())),
            1 => drop(self.call(Call::C_GetSlotList(Ulong(0), xdr::Count(0)))),
            2 => drop(self.call(Call::C_FindObjects(session, Ulong(3)))),
            3 => drop(self.call(Call::C_GetAttributeValue(
                session,
                NO_OBJECT,
                template(&[(cka::CLASS, [])]),
            ))),
            _ => drop(self.call(Call::C_GetObjectSize(session, NO_OBJECT))),
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=13 => self.create(),
            14..=22 => self.read(),
            23..=30 => self.change(),
            31..=38 => self.copy(),
            39..=44 => self.generate(),
            45..=47 => self.generate_pair(),
            48..=52 => self.find(),
            53..=64 => self.cipher(),
            65..=73 => self.sign(),
            74..=79 => self.wrap(),
            80..=85 => self.unwrap(),
            86..=88 => self.derive(),
            89..=91 => self.digest(),
            92..=93 => self.session_things(),
            94..=97 => self.token_things(),
            _ => self.odd_things(),
        }
    }
}
