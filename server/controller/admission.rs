//! Decides which client gets which worker: limits, spare workers, pauses, and who has to make room.
//!
//! One [`Admission`] is the state of one service. The controller tells it what happened (a client came, a
//! worker was forked, a handshake succeeded, a worker ended) and carries out what it answers. It makes no
//! system call, and every time is an argument, so that each rule has a unit test.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Workers that ended in a row without having had a client, after which forking pauses.
const EARLY_ENDS: u32 = 10;

/// How long accepting and forking pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a TLS handshake may take when all workers are busy and other clients wait.
const HANDSHAKE_GRACE: Duration = Duration::from_millis(250);

/// Upper bound on the handshakes that are ended at once.
const EVICTIONS_A_TURN: usize = 8;

/// Names a worker for as long as it is not reaped.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct WorkerId(pub usize);

/// The limits of a service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// All workers, busy or not (`max_threads`).
    pub workers: usize,
    /// Workers that wait for a client, forked ahead of need (`min_free_jobs_capacity`).
    pub spare: usize,
    /// Connections of one peer; 0 for no limit (`max_connections_per_peer`).
    pub per_peer: usize,
}

/// What a worker is doing.
#[derive(Clone, Debug, Eq, PartialEq)]
enum State<P> {
    /// Waits for a client.
    Idle,
    /// Has a client.
    Serving(P),
    /// Has had a client since then; its TLS handshake has not succeeded yet.
    ShakingHands(P, Instant),
    /// Was ended with its client: during a handshake, to make room for another, or by an administrator.
    Evicted(P),
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

/// A handshake that is to be ended.
#[derive(Debug, Eq, PartialEq)]
pub struct Eviction<P> {
    /// The worker to kill.
    pub worker: WorkerId,
    /// Its client.
    pub peer: P,
    /// How long the handshake has taken.
    pub taken: Duration,
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

    /// Finds a worker for a client. A worker that turns out to be dead is asked for again.
    pub fn place(&mut self, peer: &P) -> Placement {
        let connected = self.peers.get(peer).copied().unwrap_or(0);
        if self.limits.per_peer > 0 && connected >= self.limits.per_peer {
            return Placement::Refuse(connected);
        }
        match self.idle.pop_front() {
            Some(worker) => Placement::Worker(worker),
            None => Placement::Fork,
        }
    }

    /// A worker was forked. It waits for a client.
    pub fn forked(&mut self, worker: WorkerId) {
        self.workers.insert(worker, State::Idle);
        self.idle.push_back(worker);
    }

    /// A worker got its client. With TLS, `handshake` is when it got it.
    pub fn given(&mut self, worker: WorkerId, peer: P, handshake: Option<Instant>) {
        let Some(state) = self.workers.get_mut(&worker) else {
            return;
        };
        *self.peers.entry(peer.clone()).or_default() += 1;
        self.early_ends = 0;
        *state = match handshake {
            None => State::Serving(peer),
            Some(since) => State::ShakingHands(peer, since),
        };
    }

    /// A worker's TLS handshake succeeded: it will not be evicted any more.
    pub fn established(&mut self, worker: WorkerId) {
        if let Some(state) = self.workers.get_mut(&worker) {
            if let State::ShakingHands(peer, _) = state {
                *state = State::Serving(peer.clone());
            }
        }
    }

    /// A worker is about to be killed, because an administrator wants its client away. Returns whether it has one.
    pub fn disconnect(&mut self, worker: WorkerId) -> bool {
        match self.workers.get_mut(&worker) {
            Some(state @ (State::Serving(_) | State::ShakingHands(..))) => {
                if let State::Serving(peer) | State::ShakingHands(peer, _) = state {
                    *state = State::Evicted(peer.clone());
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
        for state in self.workers.values() {
            let name = match state {
                State::Idle => "idle",
                State::ShakingHands(..) => "handshake",
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

    /// A worker was reaped. Returns whether it ended because it was told to.
    pub fn ended(&mut self, worker: WorkerId, now: Instant) -> bool {
        let Some(state) = self.workers.remove(&worker) else {
            return false;
        };
        let is_expected = matches!(state, State::Retired | State::Evicted(_));
        match state {
            State::Serving(peer) | State::ShakingHands(peer, _) | State::Evicted(peer) => {
                if let Some(connected) = self.peers.get_mut(&peer) {
                    *connected -= 1;
                    if *connected == 0 {
                        self.peers.remove(&peer);
                    }
                }
            }
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

    /// Picks the handshakes to end while all workers are busy and clients wait, longest first, so that
    /// peers that never finish keep nobody out. Picks none while earlier ones still have to end.
    pub fn evict(&mut self, now: Instant) -> Vec<Eviction<P>> {
        let mut shaking = self.handshakes();
        shaking.retain(|(since, _)| now.saturating_duration_since(*since) >= HANDSHAKE_GRACE);
        shaking.sort_unstable();
        shaking.truncate(EVICTIONS_A_TURN);
        let mut evictions = Vec::new();
        for (since, worker) in shaking {
            let Some(state) = self.workers.get_mut(&worker) else {
                continue;
            };
            if let State::ShakingHands(peer, _) = state {
                let peer = peer.clone();
                *state = State::Evicted(peer.clone());
                let taken = now.saturating_duration_since(since);
                evictions.push(Eviction {
                    worker,
                    peer,
                    taken,
                });
            }
        }
        evictions
    }

    /// Workers in a handshake and since when; none while evicted workers still have to end.
    fn handshakes(&self) -> Vec<(Instant, WorkerId)> {
        let mut shaking = Vec::new();
        for (worker, state) in &self.workers {
            match state {
                State::ShakingHands(_, since) => shaking.push((*since, *worker)),
                State::Evicted(_) => return Vec::new(),
                State::Idle | State::Serving(_) | State::Retired => {}
            }
        }
        shaking
    }

    /// Gives up the idle workers, whose rules are out of date. They are to be ended.
    pub fn retire_idle(&mut self) -> Vec<WorkerId> {
        let retired: Vec<WorkerId> = self.idle.drain(..).collect();
        for worker in &retired {
            self.workers.insert(*worker, State::Retired);
        }
        retired
    }

    /// How long nothing can happen by itself. With clients waiting (`is_awaited`): no time if one can be
    /// served, else until the next handshake can be ended. A pause ends by itself, too.
    pub fn next_wake(&self, now: Instant, is_awaited: bool) -> Option<Duration> {
        if is_awaited {
            if self.can_accept(now) {
                return Some(Duration::ZERO);
            }
            if let Some((since, _)) = self.handshakes().into_iter().min() {
                return Some((since + HANDSHAKE_GRACE).saturating_duration_since(now));
            }
        }
        let until = self.paused_until?;
        Some(until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests;
