//! Tests each rule of admission without a process or a socket.

use super::*;

const LIMITS: Limits = Limits {
    workers: 3,
    spare: 1,
    per_peer: 0,
    first_call: Duration::from_secs(30),
    abandoned: Duration::from_secs(10),
};

fn service(limits: Limits) -> Admission<&'static str> {
    Admission::new(limits)
}

/// A service whose workers 1 to 3 all shake hands, since `start` and 10 ms apart.
fn all_shaking(start: Instant) -> Admission<&'static str> {
    let mut service = service(LIMITS);
    for number in 1..=3 {
        let worker = WorkerId(number);
        service.forked(worker);
        assert_eq!(service.place(&"peer"), Placement::Worker(worker));
        let since = start + Duration::from_millis(10 * number as u64);
        service.given(worker, "peer", Stage::Handshake, since);
    }
    service
}

/// Gives the worker a client that is established.
fn serve(service: &mut Admission<&'static str>, worker: usize, peer: &'static str) {
    let worker = WorkerId(worker);
    service.given(worker, peer, Stage::FirstCall, Instant::now());
    service.established(worker);
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn workers(evictions: &[Eviction<&str>]) -> Vec<usize> {
    evictions.iter().map(|eviction| eviction.worker.0).collect()
}

#[test]
fn forks_spare_workers_up_to_both_limits() {
    let now = Instant::now();
    let mut service = service(LIMITS);
    assert!(service.needs_spare(now));
    service.forked(WorkerId(1));
    assert!(!service.needs_spare(now));
    for (number, needs_spare) in [(1, true), (2, true), (3, false)] {
        assert_eq!(service.place(&"peer"), Placement::Worker(WorkerId(number)));
        serve(&mut service, number, "peer");
        assert_eq!(service.needs_spare(now), needs_spare);
        if needs_spare {
            service.forked(WorkerId(number + 1));
        }
    }
    assert!(service.is_full());
    assert!(!service.can_accept(now));
}

#[test]
fn forks_for_a_client_where_no_worker_is_idle() {
    let now = Instant::now();
    let mut service = service(Limits { spare: 0, ..LIMITS });
    assert!(!service.needs_spare(now));
    assert!(service.can_accept(now));
    assert_eq!(service.place(&"peer"), Placement::Fork);
    service.forked(WorkerId(7));
    assert_eq!(service.place(&"peer"), Placement::Worker(WorkerId(7)));
}

#[test]
fn accepts_as_long_as_a_worker_is_idle_though_no_more_may_be_forked() {
    let now = Instant::now();
    let mut service = service(Limits {
        workers: 1,
        ..LIMITS
    });
    service.forked(WorkerId(1));
    assert!(service.is_full());
    assert!(service.can_accept(now));
    assert_eq!(service.next_wake(now, true), Some(Duration::ZERO));
    assert_eq!(service.place(&"peer"), Placement::Worker(WorkerId(1)));
    serve(&mut service, 1, "peer");
    assert!(!service.can_accept(now));
}

#[test]
fn gives_the_worker_that_waited_longest() {
    let mut service = service(LIMITS);
    service.forked(WorkerId(5));
    service.forked(WorkerId(4));
    assert_eq!(service.place(&"peer"), Placement::Worker(WorkerId(5)));
    assert_eq!(service.place(&"peer"), Placement::Worker(WorkerId(4)));
}

#[test]
fn counts_the_connections_of_each_peer_until_its_workers_are_reaped() {
    let now = Instant::now();
    let mut service = service(Limits {
        per_peer: 1,
        ..LIMITS
    });
    service.forked(WorkerId(1));
    service.forked(WorkerId(2));
    assert_eq!(service.place(&"one"), Placement::Worker(WorkerId(1)));
    serve(&mut service, 1, "one");
    assert_eq!(service.place(&"one"), Placement::Refuse(1));
    assert_eq!(service.place(&"two"), Placement::Worker(WorkerId(2)));
    service.given(WorkerId(2), "two", Stage::Handshake, now);
    assert_eq!(service.place(&"two"), Placement::Refuse(1));
    service.ended(WorkerId(1), now);
    assert_eq!(service.place(&"one"), Placement::Fork);
    assert_eq!(service.place(&"two"), Placement::Refuse(1));
}

#[test]
fn gives_a_connection_back_to_its_peer_however_far_it_came() {
    let start = Instant::now();
    let mut service = service(Limits {
        workers: 4,
        per_peer: 4,
        ..LIMITS
    });
    // 1 and 2 are established, 3 is evicted, 4 still shakes hands.
    for number in 1..=4 {
        let worker = WorkerId(number);
        service.forked(worker);
        assert_eq!(service.place(&"peer"), Placement::Worker(worker));
        let since = start + millis(number as u64);
        service.given(worker, "peer", Stage::Handshake, since);
    }
    service.established(WorkerId(1));
    service.established(WorkerId(2));
    let evicted = service.make_room(start + GRACE + millis(3));
    assert_eq!(workers(&evicted), [3]);
    assert_eq!(service.place(&"peer"), Placement::Refuse(4));

    service.limits.per_peer = 1;
    for (number, left) in [(3, 3), (1, 2), (4, 1)] {
        service.ended(WorkerId(number), start);
        assert_eq!(service.place(&"peer"), Placement::Refuse(left));
    }
    service.ended(WorkerId(2), start);
    assert_eq!(service.place(&"peer"), Placement::Fork);
    assert!(service.peers.is_empty(), "a peer that is gone is kept");
}

#[test]
fn pauses_after_a_failure_and_goes_on_by_itself() {
    let now = Instant::now();
    let mut service = service(LIMITS);
    service.pause(now);
    assert!(!service.can_accept(now));
    assert!(!service.needs_spare(now));
    assert_eq!(service.next_wake(now, false), Some(PAUSE));
    assert_eq!(
        service.next_wake(now + millis(400), true),
        Some(millis(600))
    );
    assert!(service.needs_spare(now + PAUSE));
    assert!(service.can_accept(now + PAUSE));
    assert_eq!(service.next_wake(now + PAUSE, false), None);
}

/// Neither a pause nor clients that wait wake a service that accepts nobody.
#[test]
fn while_draining_only_time_limits_count() {
    let start = Instant::now();
    let mut waiting = all_shaking(start);
    waiting.pause(start);
    assert_eq!(waiting.next_overdue(start + PAUSE), None);
    let mut silent = service(LIMITS);
    silent.forked(WorkerId(1));
    silent.place(&"peer");
    silent.given(WorkerId(1), "peer", Stage::FirstCall, start);
    let limit = LIMITS.first_call;
    assert_eq!(silent.next_overdue(start), Some(limit));
    assert_eq!(silent.next_overdue(start + limit), Some(Duration::ZERO));
    silent.overdue(start + limit);
    assert_eq!(silent.next_overdue(start + limit), None);
}

#[test]
fn pauses_when_workers_keep_ending_without_a_client() {
    let now = Instant::now();
    let mut service = service(LIMITS);
    let end_idle = |service: &mut Admission<_>, number| {
        service.forked(WorkerId(number));
        assert!(!service.ended(WorkerId(number), now));
    };
    for number in 1..10 {
        end_idle(&mut service, number);
    }
    // One that gets a client shows that workers can start.
    service.forked(WorkerId(20));
    service.place(&"peer");
    serve(&mut service, 20, "peer");
    for number in 30..39 {
        end_idle(&mut service, number);
    }
    assert!(service.can_accept(now));
    end_idle(&mut service, 40);
    assert!(!service.can_accept(now));
    assert!(service.can_accept(now + PAUSE));
}

#[test]
fn pauses_again_only_after_as_many_early_ends() {
    let now = Instant::now();
    let mut service = service(LIMITS);
    for number in 0..EARLY_ENDS as usize {
        service.forked(WorkerId(number));
        service.ended(WorkerId(number), now);
    }
    assert!(!service.can_accept(now));
    let later = now + PAUSE;
    service.forked(WorkerId(50));
    service.ended(WorkerId(50), later);
    assert!(service.can_accept(later));
}

#[test]
fn does_not_pause_for_workers_that_had_a_client_or_were_retired() {
    let now = Instant::now();
    let mut service = service(LIMITS);
    // They get their clients before any of them ends: a client would reset the count.
    for number in 0..20 {
        service.forked(WorkerId(number));
        service.place(&"peer");
        serve(&mut service, number, "peer");
    }
    for number in 0..20 {
        service.ended(WorkerId(number), now);
    }
    for number in 20..40 {
        service.forked(WorkerId(number));
        assert_eq!(service.retire_idle(), [WorkerId(number)]);
        service.ended(WorkerId(number), now);
    }
    assert!(service.can_accept(now));
}

#[test]
fn a_dead_idle_worker_is_not_given_to_anybody() {
    let now = Instant::now();
    let mut service = service(LIMITS);
    service.forked(WorkerId(1));
    service.forked(WorkerId(2));
    service.ended(WorkerId(1), now);
    assert_eq!(service.place(&"peer"), Placement::Worker(WorkerId(2)));
}

#[test]
fn ends_the_longest_handshakes_and_none_before_their_grace() {
    let start = Instant::now();
    let mut service = all_shaking(start);
    assert!(service.make_room(start + millis(259)).is_empty());
    let evicted = service.make_room(start + millis(270));
    assert_eq!(workers(&evicted), [1, 2]);
    assert_eq!(evicted[0].peer, "peer");
    assert_eq!(evicted[0].taken, millis(260));
    assert_eq!(evicted[0].reason, Reason::GivesWay(Stage::Handshake));
}

#[test]
fn ends_no_handshake_while_earlier_ones_have_to_end() {
    let start = Instant::now();
    let mut service = all_shaking(start);
    let later = start + millis(1000);
    assert_eq!(workers(&service.make_room(start + millis(265))), [1]);
    assert!(service.make_room(later).is_empty());
    assert_eq!(service.next_wake(later, true), None);
    assert!(service.ended(WorkerId(1), later));
    assert_eq!(workers(&service.make_room(later)), [2, 3]);
}

#[test]
fn ends_handshakes_also_while_a_retired_worker_has_to_end() {
    let start = Instant::now();
    let mut service = all_shaking(start);
    service.ended(WorkerId(3), start);
    service.forked(WorkerId(4));
    assert_eq!(service.retire_idle(), [WorkerId(4)]);
    assert!(service.is_full());
    let later = start + PAUSE;
    assert_eq!(service.next_wake(later, true), Some(Duration::ZERO));
    assert_eq!(workers(&service.make_room(later)), [1, 2]);
}

#[test]
fn ends_sixteen_clients_at_once_at_the_most() {
    let start = Instant::now();
    let mut service = service(Limits {
        workers: 40,
        ..LIMITS
    });
    for number in 0..40 {
        service.forked(WorkerId(number));
        service.place(&"peer");
        service.given(WorkerId(number), "peer", Stage::Handshake, start);
    }
    let evicted = service.make_room(start + PAUSE);
    assert_eq!(workers(&evicted), (0..16).collect::<Vec<_>>());
}

#[test]
fn keeps_whoever_finished_its_handshake() {
    let start = Instant::now();
    let mut service = all_shaking(start);
    service.established(WorkerId(1));
    assert_eq!(workers(&service.make_room(start + PAUSE)), [2, 3]);
    // Too late for one that was ended.
    service.established(WorkerId(2));
    assert!(service.ended(WorkerId(2), start));
    assert!(!service.ended(WorkerId(1), start));
}

#[test]
fn wakes_when_the_oldest_handshake_can_be_ended() {
    let start = Instant::now();
    let service = all_shaking(start);
    assert_eq!(
        service.next_wake(start + millis(60), true),
        Some(millis(200))
    );
    assert_eq!(service.next_wake(start + PAUSE, true), Some(Duration::ZERO));
    assert_eq!(service.next_wake(start, false), None);
}

#[test]
fn wakes_at_once_while_a_waiting_client_can_be_served() {
    let now = Instant::now();
    let mut service = service(LIMITS);
    assert_eq!(service.next_wake(now, true), Some(Duration::ZERO));
    service.forked(WorkerId(1));
    assert_eq!(service.next_wake(now, true), Some(Duration::ZERO));
    assert_eq!(service.next_wake(now, false), None);
}

#[test]
fn retired_workers_get_no_client_and_count_until_they_end() {
    let now = Instant::now();
    let mut service = service(Limits {
        workers: 1,
        ..LIMITS
    });
    service.forked(WorkerId(1));
    assert_eq!(service.retire_idle(), [WorkerId(1)]);
    assert_eq!(service.place(&"peer"), Placement::Fork);
    assert!(!service.can_accept(now));
    assert!(service.ended(WorkerId(1), now));
    assert!(service.can_accept(now));
    assert!(service.retire_idle().is_empty());
}

#[test]
fn a_worker_that_nobody_knows_changes_nothing() {
    let now = Instant::now();
    let mut service = service(LIMITS);
    service.given(WorkerId(9), "peer", Stage::FirstCall, now);
    service.shook_hands(WorkerId(9), now);
    service.waits(WorkerId(9), PAUSE, now);
    service.established(WorkerId(9));
    service.client_gone(WorkerId(9), now);
    assert!(service.overdue(now + millis(3_600_000)).is_empty());
    assert!(!service.ended(WorkerId(9), now));
    assert_eq!(service.place(&"peer"), Placement::Fork);
}

#[test]
fn a_handshake_and_the_first_call_have_their_time_one_after_the_other() {
    let start = Instant::now();
    let mut service = all_shaking(start);
    service.shook_hands(WorkerId(1), start + millis(200));
    service.established(WorkerId(2));
    assert!(service.make_room(start + millis(279)).is_empty());
    assert_eq!(workers(&service.make_room(start + millis(280))), [3]);
    service.ended(WorkerId(3), start);
    assert!(service.make_room(start + millis(449)).is_empty());
    let evicted = service.make_room(start + millis(450));
    assert_eq!(workers(&evicted), [1]);
    assert_eq!(evicted[0].reason, Reason::GivesWay(Stage::FirstCall));
}

/// Otherwise many silent clients that wait together would use up their time one after the other.
#[test]
fn a_client_that_did_nothing_while_it_waited_has_had_its_time() {
    let start = Instant::now();
    let mut service = service(LIMITS);
    for number in 1..=3 {
        service.forked(WorkerId(number));
        service.place(&"peer");
        service.given(WorkerId(number), "peer", Stage::FirstCall, start);
    }
    // The first has sent its call, which its worker has not yet read; the third has come just now.
    service.waits(WorkerId(2), millis(260), start + millis(5));
    service.waits(WorkerId(3), millis(5), start + millis(5));
    assert_eq!(
        service.next_wake(start + millis(5), true),
        Some(Duration::ZERO)
    );
    assert_eq!(workers(&service.make_room(start + millis(5))), [2]);
    service.ended(WorkerId(2), start);
    assert!(service.make_room(start + millis(249)).is_empty());
    assert_eq!(workers(&service.make_room(start + millis(250))), [1, 3]);
}

#[test]
fn a_client_without_a_call_is_ended_in_time_though_nobody_waits() {
    let start = Instant::now();
    let mut service = all_shaking(start);
    // A handshake has a limit of its own, in the worker.
    assert_eq!(service.next_wake(start, false), None);
    service.shook_hands(WorkerId(1), start + millis(500));
    service.shook_hands(WorkerId(2), start + millis(600));
    service.established(WorkerId(2));
    assert_eq!(service.next_wake(start, false), Some(millis(30_500)));
    assert!(service.overdue(start + millis(30_499)).is_empty());
    let evicted = service.overdue(start + millis(30_500));
    assert_eq!(workers(&evicted), [1]);
    assert_eq!(evicted[0].reason, Reason::TooSlow(Stage::FirstCall));
    assert_eq!(evicted[0].taken, millis(30_000));
    assert!(service.overdue(start + millis(99_000)).is_empty());
    assert!(service.ended(WorkerId(1), start));
    assert_eq!(service.next_wake(start, false), None);
}

#[test]
fn calls_have_some_time_after_their_client_has_gone() {
    let start = Instant::now();
    let mut service = service(LIMITS);
    for number in 1..=3 {
        service.forked(WorkerId(number));
        service.place(&"peer");
        if number < 3 {
            serve(&mut service, number, "peer");
        }
    }
    service.client_gone(WorkerId(1), start + millis(100));
    // First one half is closed, then the other: the first time counts.
    service.client_gone(WorkerId(1), start + millis(900));
    service.client_gone(WorkerId(2), start + millis(200));
    // A worker without a client.
    service.client_gone(WorkerId(3), start);
    assert_eq!(service.next_wake(start, false), Some(millis(10_100)));
    assert!(service.overdue(start + millis(10_099)).is_empty());
    assert!(!service.ended(WorkerId(2), start));
    let evicted = service.overdue(start + millis(10_300));
    assert_eq!(workers(&evicted), [1]);
    assert_eq!(evicted[0].reason, Reason::Abandoned);
    assert_eq!(evicted[0].taken, millis(10_200));
    assert!(service.ended(WorkerId(1), start));
    assert!(service.overdue(start + millis(99_000)).is_empty());
    assert_eq!(service.next_wake(start, false), None);
    assert!(service.opening.is_empty() && service.gone.is_empty());
}

#[test]
fn times_that_the_clock_has_no_number_for_are_never_over() {
    let start = Instant::now();
    let mut service = service(Limits {
        first_call: Duration::MAX,
        abandoned: Duration::MAX,
        ..LIMITS
    });
    service.forked(WorkerId(1));
    service.place(&"peer");
    service.given(WorkerId(1), "peer", Stage::FirstCall, start);
    service.waits(WorkerId(1), Duration::MAX, start);
    service.client_gone(WorkerId(1), start);
    assert_eq!(service.next_wake(start, false), None);
    assert!(service.overdue(start + millis(99_000)).is_empty());
}

#[test]
fn a_client_that_was_silent_while_it_waited_is_turned_away_from_a_crowd() {
    let start = Instant::now();
    let mut service = all_shaking(start);
    let away = |service: &Admission<_>, silent, now| service.turns_away(|| silent, now);
    assert_eq!(away(&service, Some(GRACE), start), None);
    service.make_room(start);
    assert_eq!(
        away(&service, Some(GRACE), start + millis(999)),
        Some(GRACE)
    );
    assert_eq!(away(&service, Some(millis(249)), start), None);
    assert_eq!(away(&service, None, start), None);
    assert_eq!(away(&service, Some(GRACE), start + CROWD), None);
}

/// A service whose workers 1 to 3 wait for PROXY headers from the peer "balancer".
fn behind_a_balancer(start: Instant) -> Admission<&'static str> {
    let mut service = service(Limits {
        workers: 5,
        per_peer: 1,
        ..LIMITS
    });
    for number in 1..=3 {
        let worker = WorkerId(number);
        service.forked(worker);
        assert_eq!(service.place_anyone(), Placement::Worker(worker));
        service.given(worker, "balancer", Stage::Header, start);
    }
    service
}

#[test]
fn behind_a_balancer_a_connection_counts_for_the_client_that_the_header_names() {
    let start = Instant::now();
    let mut service = behind_a_balancer(start);
    assert!(service.peers.is_empty());
    let mut came = |worker, client| {
        let worker = WorkerId(worker);
        service.header_came(worker, client, Stage::FirstCall, start)
    };
    assert_eq!(came(1, Some("one")), None);
    // Only once, whatever the worker says.
    assert_eq!(came(1, Some("two")), None);
    // A health check counts for nobody.
    assert_eq!(came(2, None), None);
    let expected = Eviction {
        worker: WorkerId(3),
        peer: "one",
        reason: Reason::OverLimit(1),
        taken: Duration::ZERO,
    };
    assert_eq!(came(3, Some("one")), Some(expected));
    // Until its worker is reaped, the connection counts like any other.
    assert_eq!(service.place(&"one"), Placement::Refuse(2));
    assert!(service.ended(WorkerId(3), start));
    assert!(!service.ended(WorkerId(2), start));
    assert_eq!(service.place(&"one"), Placement::Refuse(1));
    assert!(!service.ended(WorkerId(1), start));
    assert!(service.peers.is_empty());
}

#[test]
fn a_client_behind_a_balancer_takes_the_balancers_own_address_for_none_of_its_connections() {
    let start = Instant::now();
    let mut service = behind_a_balancer(start);
    let named = service.header_came(WorkerId(1), Some("balancer"), Stage::FirstCall, start);
    assert_eq!(named, None);
    service.forked(WorkerId(4));
    assert_eq!(service.place_anyone(), Placement::Worker(WorkerId(4)));
    service.given(WorkerId(4), "balancer", Stage::Header, start);
    let other = service.header_came(WorkerId(4), Some("other"), Stage::FirstCall, start);
    assert_eq!(other, None);
}

#[test]
fn a_missing_header_gives_way_and_has_its_time() {
    let start = Instant::now();
    let mut service = behind_a_balancer(start);
    assert!(service.awaits_header(WorkerId(1)));
    assert!(service.make_room(start + GRACE - millis(1)).is_empty());
    // The client was silent before it got a worker.
    service.waits(WorkerId(2), GRACE, start);
    assert_eq!(service.next_wake(start, true), Some(Duration::ZERO));
    let evicted = service.make_room(start);
    assert_eq!(workers(&evicted), [2]);
    assert_eq!(evicted[0].reason, Reason::GivesWay(Stage::Header));

    // One header comes late; the first call after it has the full time.
    let late = start + millis(29_000);
    service.header_came(WorkerId(1), Some("one"), Stage::FirstCall, late);
    assert!(!service.awaits_header(WorkerId(1)));
    let over = start + LIMITS.first_call;
    assert_eq!(service.next_wake(late, false), Some(millis(1000)));
    let overdue = service.overdue(over);
    assert_eq!(workers(&overdue), [3]);
    assert_eq!(overdue[0].reason, Reason::TooSlow(Stage::Header));
    assert_eq!(overdue[0].peer, "balancer");
    let overdue = service.overdue(late + LIMITS.first_call);
    assert_eq!(workers(&overdue), [1]);
    assert_eq!(
        (overdue[0].reason, overdue[0].peer),
        (Reason::TooSlow(Stage::FirstCall), "one")
    );
    for worker in 1..=3 {
        assert!(service.ended(WorkerId(worker), over));
    }
    assert!(service.peers.is_empty() && service.opening.is_empty());
}
