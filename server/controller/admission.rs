//! Decides which client gets which worker: limits, spare workers, pauses, and which clients must give way.
//!
//! One [`Admission`] is the state of one service. The controller tells it what happened (a client came, a worker was
//! forked, a client made its first call, a client has gone, a worker ended) and carries out what it answers. It makes
//! no system call, and gets every time as an argument, so that each rule has a unit test.
//!
//! A client is established when its first complete call has come. Before that it may be ended in favour of others.
//! Behind a load balancer, a connection counts for its peer only after the PROXY header has named the peer.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// After this many workers in a row have ended without having had a client, forking pauses.
const EARLY_ENDS: u32 = 10;

/// How long accepting and forking pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a client may take for each stage when all workers are busy and other clients wait: for its PROXY header,
/// its TLS handshake, and its first complete call.
const GRACE: Duration = Duration::from_millis(250);

/// Upper bound on the clients that are ended at once.
const EVICTIONS_A_TURN: usize = 16;

/// The reason, in log messages, why clients give way.
pub const ROOM: &str = "because all workers are busy and other clients wait";

/// How long after clients had to wait the service is still taken to be crowded.
const CROWD: Duration = Duration::from_secs(1);

/// Identifies a worker until it is reaped.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WorkerId(pub usize);

/// The limits of a service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Upper bound on all workers, busy or not (`max_threads`).
    pub workers: usize,
    /// Workers that wait for a client, forked ahead of need (`min_free_jobs_capacity`).
    pub spare: usize,
    /// Connections of one peer; 0 for no limit (`max_connections_per_peer`).
    pub per_peer: usize,
    /// Time limit for a client's first complete call after its TLS handshake, and for its PROXY header
    /// (`first_call_timeout`).
    pub first_call: Duration,
    /// Time limit for calls whose client has gone (`abandoned_call_timeout`).
    pub abandoned: Duration,
}

/// A worker's client.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Client<P> {
    peer: P,
    /// Whether its connection counts for the peer.
    is_counted: bool,
}

/// What a worker is doing.
#[derive(Clone, Debug, Eq, PartialEq)]
enum State<P> {
    /// Waits for a client.
    Idle,
    /// Has a client.
    Serving(Client<P>),
    /// Was ended while it had a client, for one of the reasons in [`Reason`] or by an administrator.
    Evicted(Client<P>),
    /// Was told to end while idle, because its rules are out of date.
    Retired,
}

/// What to do with a client.
#[derive(Debug, Eq, PartialEq)]
pub enum Placement {
    /// Give it to this worker.
    Worker(WorkerId),
    /// Fork a worker and ask again.
    Fork,
    /// Close it: its peer already has this many connections, which is the limit.
    Refuse(usize),
}

/// The stages of a client before it is established.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// Its PROXY header.
    Header,
    /// Its TLS handshake.
    Handshake,
    /// Its first complete call.
    FirstCall,
}

impl Stage {
    /// Whether this stage has a time limit here. The limit of handshakes is enforced by the workers.
    fn is_limited(self) -> bool {
        self != Stage::Handshake
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Header => "without a PROXY header",
            Stage::Handshake => "in its TLS handshake",
            Stage::FirstCall => "without a complete call",
        })
    }
}

/// A client that is not established.
#[derive(Clone, Copy, Debug)]
struct Opening {
    stage: Stage,
    /// When this stage began. For the first call, the time that the client was silent before a worker got it is
    /// included.
    since: Instant,
}

/// Why a worker is ended with its client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    /// It makes room for another client at this stage.
    GivesWay(Stage),
    /// It did not get past this stage in time.
    TooSlow(Stage),
    /// Its peer already has this many connections, which is the limit.
    OverLimit(usize),
    /// Its client has gone, and its calls do not end.
    Abandoned,
}

/// A worker that is to be ended with its client.
#[derive(Debug, Eq, PartialEq)]
pub struct Eviction<P> {
    /// The worker to kill.
    pub worker: WorkerId,
    /// Its client.
    pub peer: P,
    /// Why.
    pub reason: Reason,
    /// How long the client has taken.
    pub taken: Duration,
}

/// Formats the message for the log.
impl<P: fmt::Display> fmt::Display for Eviction<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (peer, taken) = (&self.peer, self.taken.as_secs_f32());
        match self.reason {
            Reason::GivesWay(stage) => {
                write!(f, "client {peer}: ended after {taken:.1} s {stage}, {ROOM}")
            }
            Reason::TooSlow(stage) => write!(f, "client {peer}: ended after {taken:.1} s {stage}"),
            Reason::OverLimit(connected) => write!(
                f,
                "client {peer} refused: it already has {connected} connections"
            ),
            Reason::Abandoned => write!(
                f,
                "client {peer}: has gone, and its calls have not ended within {taken:.1} s; the worker is killed"
            ),
        }
    }
}

/// The workers of one service and their clients.
#[derive(Debug)]
pub struct Admission<P> {
    limits: Limits,
    workers: HashMap<WorkerId, State<P>>,
    /// The idle workers; the one that has waited longest is the next to get a client.
    idle: VecDeque<WorkerId>,
    /// Connections by peer.
    peers: HashMap<P, usize>,
    /// The workers whose clients are not established.
    opening: HashMap<WorkerId, Opening>,
    /// The workers whose clients have gone, and when.
    gone: HashMap<WorkerId, Instant>,
    /// When clients had to wait for the last time.
    crowded_at: Option<Instant>,
    early_ends: u32,
    paused_until: Option<Instant>,
}

impl<P: Clone + Eq + Hash> Admission<P> {
    /// A service without workers.
    pub fn new(limits: Limits) -> Admission<P> {
        Admission {
            limits,
            workers: HashMap::new(),
            idle: VecDeque::new(),
            peers: HashMap::new(),
            opening: HashMap::new(),
            gone: HashMap::new(),
            crowded_at: None,
            early_ends: 0,
            paused_until: None,
        }
    }

    /// Whether every worker that the service may have is busy.
    pub fn is_full(&self) -> bool {
        self.workers.len() >= self.limits.workers
    }

    /// Whether a client can be served now: by an idle worker or a new one.
    pub fn can_accept(&self, now: Instant) -> bool {
        !self.is_paused(now) && (!self.idle.is_empty() || !self.is_full())
    }

    /// Whether a worker is to be forked ahead of need. Ends a pause that is over.
    pub fn needs_spare(&mut self, now: Instant) -> bool {
        if self.is_paused(now) {
            return false;
        }
        self.paused_until = None;
        self.idle.len() < self.limits.spare && !self.is_full()
    }

    /// Stops accepting and forking for a while: a fork or an accept failed.
    pub fn pause(&mut self, now: Instant) {
        self.paused_until = Some(now + PAUSE);
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// Returns how long a client has been silent, if it must be turned away before it gets a worker. `silent` measures
    /// that, and is called only if clients had to wait just now. The caller checks whether others wait behind it.
    pub fn turns_away(
        &self,
        silent: impl FnOnce() -> Option<Duration>,
        now: Instant,
    ) -> Option<Duration> {
        let crowded = now.saturating_duration_since(self.crowded_at?) < CROWD;
        let silent = crowded.then(silent)??;
        (silent >= GRACE).then_some(silent)
    }

    /// Finds a worker for a client. If that worker turns out to be dead, the caller asks again.
    pub fn place(&mut self, peer: &P) -> Placement {
        let connected = self.peers.get(peer).copied().unwrap_or(0);
        if self.limits.per_peer > 0 && connected >= self.limits.per_peer {
            return Placement::Refuse(connected);
        }
        self.place_anyone()
    }

    /// Finds a worker for a client whose identity is not known yet. If that worker turns out to be dead, the caller
    /// asks again.
    pub fn place_anyone(&mut self) -> Placement {
        match self.idle.pop_front() {
            Some(worker) => Placement::Worker(worker),
            None => Placement::Fork,
        }
    }

    /// Notes that a worker was forked and waits for a client.
    pub fn forked(&mut self, worker: WorkerId) {
        self.workers.insert(worker, State::Idle);
        self.idle.push_back(worker);
    }

    /// Notes that a worker gets its client, which is at this stage.
    pub fn given(&mut self, worker: WorkerId, peer: P, stage: Stage, now: Instant) {
        let Some(state) = self.workers.get_mut(&worker) else {
            return;
        };
        let is_counted = stage != Stage::Header;
        if is_counted {
            *self.peers.entry(peer.clone()).or_default() += 1;
        }
        self.early_ends = 0;
        *state = State::Serving(Client { peer, is_counted });
        self.opening.insert(worker, Opening { stage, since: now });
    }

    /// Notes that the PROXY header has come, and that this stage is next. `client` is `None` if the client is the
    /// balancer itself, whose connections do not count. Ends a client whose peer has too many connections.
    pub fn header_came(
        &mut self,
        worker: WorkerId,
        client: Option<P>,
        stage: Stage,
        now: Instant,
    ) -> Option<Eviction<P>> {
        let opening = self.opening.get_mut(&worker)?;
        // Only once: a worker may send anything.
        if opening.stage != Stage::Header {
            return None;
        }
        *opening = Opening { stage, since: now };
        let peer = client?;
        let State::Serving(serving) = self.workers.get_mut(&worker)? else {
            return None;
        };
        *serving = Client {
            peer: peer.clone(),
            is_counted: true,
        };
        let count = self.peers.entry(peer).or_default();
        let connected = *count;
        *count += 1;
        let is_over = self.limits.per_peer > 0 && connected >= self.limits.per_peer;
        is_over.then(|| self.evict(worker, Reason::OverLimit(connected), Duration::ZERO))?
    }

    /// Whether a client's PROXY header is missing.
    pub fn awaits_header(&self, worker: WorkerId) -> bool {
        let opening = self.opening.get(&worker);
        opening.is_some_and(|opening| opening.stage == Stage::Header)
    }

    /// Notes that a client's TLS handshake succeeded: its first call is next.
    pub fn shook_hands(&mut self, worker: WorkerId, now: Instant) {
        if let Some(opening) = self.opening.get_mut(&worker) {
            *opening = Opening {
                stage: Stage::FirstCall,
                since: now,
            };
        }
    }

    /// Notes that a client's first call is incomplete, and that the client has been silent for this long.
    pub fn waits(&mut self, worker: WorkerId, idle: Duration, now: Instant) {
        if let Some(opening) = self.opening.get_mut(&worker) {
            let since = now.checked_sub(idle).unwrap_or(opening.since);
            opening.since = opening.since.min(since);
        }
    }

    /// Notes that a client's first call has come: the client is established, and no longer gives way to others.
    pub fn established(&mut self, worker: WorkerId) {
        self.opening.remove(&worker);
    }

    /// Notes that a client has closed its connection, or its sending half.
    pub fn client_gone(&mut self, worker: WorkerId, now: Instant) {
        if let Some(State::Serving(_)) = self.workers.get(&worker) {
            self.gone.entry(worker).or_insert(now);
        }
    }

    /// Notes that a worker is about to be killed, because an administrator disconnects its client. Returns whether it
    /// has a client.
    pub fn disconnect(&mut self, worker: WorkerId) -> bool {
        self.forget_client(worker);
        match self.workers.get_mut(&worker) {
            Some(state @ State::Serving(_)) => {
                if let State::Serving(client) = state {
                    *state = State::Evicted(client.clone());
                }
                true
            }
            Some(State::Evicted(_)) => true,
            _ => false,
        }
    }

    /// How many workers are in each state.
    pub fn states(&self) -> Vec<(&'static str, usize)> {
        let mut counts = [("idle", 0), ("handshake", 0), ("serving", 0), ("ending", 0)];
        let is_handshake = |stage| matches!(stage, Some(Stage::Header | Stage::Handshake));
        for (worker, state) in &self.workers {
            let stage = self.opening.get(worker).map(|opening| opening.stage);
            let name = match state {
                State::Idle => "idle",
                State::Serving(_) if is_handshake(stage) => "handshake",
                State::Serving(_) => "serving",
                State::Evicted(_) | State::Retired => "ending",
            };
            let count = counts.iter_mut().find(|(known, _)| *known == name);
            count.into_iter().for_each(|(_, count)| *count += 1);
        }
        counts.to_vec()
    }

    /// How many workers wait for a client.
    pub fn idle_workers(&self) -> usize {
        self.idle.len()
    }

    /// Notes that a worker was reaped. Returns whether it ended because it was told to.
    pub fn ended(&mut self, worker: WorkerId, now: Instant) -> bool {
        let Some(state) = self.workers.remove(&worker) else {
            return false;
        };
        self.forget_client(worker);
        let is_expected = matches!(state, State::Retired | State::Evicted(_));
        match state {
            State::Serving(client) | State::Evicted(client) => self.leave(&client),
            State::Idle => {
                self.idle.retain(|idle| *idle != worker);
                self.early_ends += 1;
                if self.early_ends >= EARLY_ENDS {
                    self.early_ends = 0;
                    self.pause(now);
                }
            }
            State::Retired => {}
        }
        is_expected
    }

    /// Subtracts a client's connection from those of its peer.
    fn leave(&mut self, client: &Client<P>) {
        if !client.is_counted {
            return;
        }
        if let Some(connected) = self.peers.get_mut(&client.peer) {
            *connected -= 1;
            if *connected == 0 {
                self.peers.remove(&client.peer);
            }
        }
    }

    /// Forgets the times of a worker's client, for which no limit applies any more.
    fn forget_client(&mut self, worker: WorkerId) {
        self.opening.remove(&worker);
        self.gone.remove(&worker);
    }

    /// Marks a worker as ended with its client. The controller then has to kill it.
    fn evict(&mut self, worker: WorkerId, reason: Reason, taken: Duration) -> Option<Eviction<P>> {
        self.forget_client(worker);
        let state = self.workers.get_mut(&worker)?;
        let State::Serving(client) = state else {
            return None;
        };
        let peer = client.peer.clone();
        *state = State::Evicted(client.clone());
        Some(Eviction {
            worker,
            peer,
            reason,
            taken,
        })
    }

    /// Picks the clients to end while all workers are busy and others wait: those that have taken longest among the
    /// clients that are not established. Picks none while earlier ones are still ending.
    pub fn make_room(&mut self, now: Instant) -> Vec<Eviction<P>> {
        self.crowded_at = Some(now);
        if self.is_evicting() {
            return Vec::new();
        }
        let openings = self.opening.iter();
        let mut openings: Vec<(Instant, WorkerId, Stage)> = openings
            .filter(|(_, opening)| now.saturating_duration_since(opening.since) >= GRACE)
            .map(|(worker, opening)| (opening.since, *worker, opening.stage))
            .collect();
        openings.sort_unstable_by_key(|(since, worker, _)| (*since, *worker));
        openings.truncate(EVICTIONS_A_TURN);
        let evict = |(since, worker, stage)| {
            let taken = now.saturating_duration_since(since);
            self.evict(worker, Reason::GivesWay(stage), taken)
        };
        openings.into_iter().filter_map(evict).collect()
    }

    /// Whether workers that were ended with their clients have not been reaped.
    fn is_evicting(&self) -> bool {
        let mut states = self.workers.values();
        states.any(|state| matches!(state, State::Evicted(_)))
    }

    /// Picks the workers that have exceeded a time limit, whether other clients wait or not: their clients have made no
    /// call, or have gone.
    pub fn overdue(&mut self, now: Instant) -> Vec<Eviction<P>> {
        let taken = |since: Instant| now.saturating_duration_since(since);
        let silent = self.opening.iter().filter_map(|(worker, opening)| {
            let (stage, taken) = (opening.stage, taken(opening.since));
            let is_over = stage.is_limited() && taken >= self.limits.first_call;
            is_over.then_some((*worker, Reason::TooSlow(stage), taken))
        });
        let abandoned = self.gone.iter().filter_map(|(worker, since)| {
            let is_over = taken(*since) >= self.limits.abandoned;
            is_over.then_some((*worker, Reason::Abandoned, taken(*since)))
        });
        let overdue: Vec<_> = abandoned.chain(silent).collect();
        let evict = |(worker, reason, taken)| self.evict(worker, reason, taken);
        overdue.into_iter().filter_map(evict).collect()
    }

    /// Removes the idle workers, whose rules are out of date, and returns them. The caller must end them.
    pub fn retire_idle(&mut self) -> Vec<WorkerId> {
        let retired: Vec<WorkerId> = self.idle.drain(..).collect();
        for worker in &retired {
            self.workers.insert(*worker, State::Retired);
        }
        retired
    }

    /// Returns how long the event loop may sleep: until a pause ends, or a time limit for a first call or for calls
    /// whose client has gone. If clients wait (`is_awaited`), the time is zero if one of them can be served. Otherwise
    /// it also ends when the next client must give way.
    pub fn next_wake(&self, now: Instant, is_awaited: bool) -> Option<Duration> {
        if is_awaited && self.can_accept(now) {
            return Some(Duration::ZERO);
        }
        let gives_way = is_awaited && !self.is_evicting();
        let giving_way = self.opening.values().filter(|_| gives_way);
        let giving_way = giving_way.map(|opening| opening.since.checked_add(GRACE));
        let times = giving_way.flatten().chain(self.paused_until);
        let next = times.min().map(|next| next.saturating_duration_since(now));
        next.into_iter().chain(self.next_overdue(now)).min()
    }

    /// Does the same for a service that accepts no more clients: until the next time limit of [`Admission::overdue`].
    pub fn next_overdue(&self, now: Instant) -> Option<Duration> {
        let first_calls = self.opening.values();
        let first_calls = first_calls.filter(|opening| opening.stage.is_limited());
        let first_calls =
            first_calls.map(|opening| opening.since.checked_add(self.limits.first_call));
        let abandoned = self.gone.values();
        let abandoned = abandoned.map(|since| since.checked_add(self.limits.abandoned));
        let next = first_calls.chain(abandoned).flatten().min()?;
        Some(next.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests;
