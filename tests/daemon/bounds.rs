//! Tests the bounds on what idle clients and modules can occupy: each is driven over its limit while good clients are
//! served.

use crate::administration::ctl;
use crate::*;

/// How long a good client waits at the most.
const SERVED: Duration = Duration::from_secs(1);

/// The start of a call, in half a record mark, or in a mark and half of a call.
fn halves() -> [Vec<u8>; 2] {
    let call = encoded(&Call::C_SetupArch(Architecture::host()));
    [call[..2].to_vec(), call[..call.len() / 2].to_vec()]
}

/// Connects, calls and leaves; how long that took.
fn good(daemon: &Daemon) -> Duration {
    let begun = Instant::now();
    let mut client = Client::ready(daemon);
    assert!(client.call(Call::C_GetInfo()).rv().is_ok());
    begun.elapsed()
}

/// How many clients were turned away for this reason, as monitoring systems are told.
fn turned_away(daemon: &Daemon, reason: &str) -> u64 {
    let text = ctl(daemon, &["metrics"]).stdout;
    let is_it = |line: &&str| {
        line.starts_with("pkcs11proxy_turned_away_total{")
            && line.contains(&format!("reason=\"{reason}\""))
    };
    let line = text.lines().find(is_it);
    let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    count.unwrap_or_else(|| panic!("no {reason} in {text}"))
}

/// How many such clients the log tells of: each line, and what it says about those that have none.
fn logged(log: &str, told: &str) -> u64 {
    let left_out = log.lines().filter_map(|line| {
        let count = line.strip_suffix(" more refused clients were not logged")?;
        count.rsplit(' ').next()?.parse::<u64>().ok()
    });
    log.matches(told).count() as u64 + left_out.sum::<u64>()
}

#[test]
fn silent_and_half_sent_clients_keep_nobody_out_at_the_limit_of_workers() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.max_threads = 20;
    setup.daemon = "control_socket = \"../control\";".into();
    let daemon = setup.start();
    // They have been here for ever, and will be.
    let mut established: Vec<Client> = (0..5).map(|_| Client::ready(&daemon)).collect();
    // On a busy machine a client takes longer in any case.
    let undisturbed = (0..5).map(|_| good(&daemon)).max().expect("some");
    let limit = SERVED + 10 * undisturbed;
    let halves = halves();
    let mut hostile = Vec::new();
    for number in 0..400 {
        let mut client = Client::new(&daemon);
        if number % 2 == 0 {
            client.send(&halves[number / 2 % 2]);
        }
        hostile.push(client);
    }
    let times: Vec<Duration> = (0..20).map(|_| good(&daemon)).collect();
    let slowest = times.iter().max().expect("some");
    assert!(*slowest < limit, "{times:?}, undisturbed {undisturbed:?}");
    for client in &mut established {
        assert!(client.call(Call::C_GetInfo()).rv().is_ok());
    }
    // As one leaves, another comes.
    for round in 0..10 {
        for (number, place) in hostile.iter_mut().enumerate().skip(round * 40).take(40) {
            let mut client = Client::new(&daemon);
            client.send(&halves[number % 2]);
            *place = client;
        }
        let time = good(&daemon);
        assert!(time < limit, "{time:?}, undisturbed {undisturbed:?}");
    }
    for told in ["without a complete call", "without a byte"] {
        let told = format!("{told}, because all workers are busy");
        assert!(daemon.log().contains(&told), "{}", daemon.log());
    }
    let told = logged(
        &daemon.log(),
        "because all workers are busy and other clients wait",
    );
    let counted = turned_away(&daemon, "make_room");
    assert!(counted >= told, "{counted} of {told} are counted");
}

#[test]
fn a_client_without_a_complete_call_is_ended_in_time_though_nobody_waits() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "first_call_timeout = 0.5;".into();
    setup.daemon = "control_socket = \"../control\";".into();
    let daemon = setup.start();
    let mut ready = Client::ready(&daemon);
    let mut cheap = Client::new(&daemon);
    cheap.call(Call::C_SetupArch(Architecture::host()));
    let begun = Instant::now();
    let mut hostile: Vec<Client> = (0..4).map(|_| Client::new(&daemon)).collect();
    let [mark, half] = halves();
    hostile[1].send(&mark);
    hostile[2].send(&half);
    // A record that is no call.
    hostile[3].send(&[0x80, 0, 0, 4, 1, 2, 3, 4]);
    for client in &mut hostile {
        // What is no call may be answered.
        while client.record().is_some() {}
        assert!(begun.elapsed() >= Duration::from_millis(450));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    assert!(ready.call(Call::C_GetInfo()).rv().is_ok());
    cheap.call(Call::C_LoadModule(b"null"));
    assert!(cheap.call(Call::C_Initialize()).rv().is_ok());
    let log = daemon.log();
    assert_eq!(log.matches("s without a complete call").count(), 4, "{log}");
    assert_eq!(turned_away(&daemon, "first_call_timeout"), 4);
}

/// A module that hangs in C_Sign, behind a daemon for two clients.
fn hanging(token: &Token, milliseconds: u32) -> Setup {
    let mut setup = setup(token);
    setup.max_threads = 2;
    setup.processor = "abandoned_call_timeout = 0.5;".into();
    let sleep = format!("C_Sign:{milliseconds}");
    setup.environment.push(("NULLMODULE_SLEEP".into(), sleep));
    setup
}

#[test]
fn a_worker_whose_module_hangs_does_not_outlive_its_client_for_long() {
    let token = Token::new();
    let daemon = hanging(&token, 600_000).start();
    // Closed, closed by half, and reset.
    for leave in [Shutdown::Both, Shutdown::Write, Shutdown::Read] {
        let mut clients = [Client::ready(&daemon), Client::ready(&daemon)];
        let workers = daemon.workers();
        for client in &mut clients {
            client.send(&encoded(&Call::C_Sign(SESSION, b"data")));
        }
        let begun = Instant::now();
        let mut kept = Vec::new();
        for client in clients {
            match leave {
                Shutdown::Read => {
                    let socket = socket2::SockRef::from(&client.0);
                    socket.set_linger(Some(Duration::ZERO)).expect("TCP can");
                }
                how => client.0.shutdown(how).expect("connected"),
            }
            if leave == Shutdown::Write {
                kept.push(client);
            }
        }
        assert!(good(&daemon) < Duration::from_secs(5), "{leave:?}");
        assert!(begun.elapsed() >= Duration::from_millis(450), "{leave:?}");
        assert!(wait_until(PATIENCE, || !workers
            .iter()
            .any(|it| it.is_alive())));
        for client in &mut kept {
            assert!(client.record().is_none());
        }
    }
    let log = daemon.log();
    assert!(
        log.contains("has gone, and its calls have not ended within"),
        "{log}"
    );
}

#[test]
fn calls_take_their_time_while_their_client_is_there_or_comes_back_for_the_reply_in_time() {
    let token = Token::new();
    let mut setup = hanging(&token, 1500);
    let daemon = setup.start();
    let mut patient = Client::ready(&daemon);
    assert!(patient.call(Call::C_Sign(SESSION, b"data")).rv().is_ok());
    drop(daemon);
    setup = hanging(&token, 1500);
    setup.processor = "abandoned_call_timeout = 8.0;".into();
    let daemon = setup.start();
    let mut leaving = Client::ready(&daemon);
    let call = Call::C_Sign(SESSION, b"data");
    leaving.send(&encoded(&call));
    leaving.0.shutdown(Shutdown::Write).expect("half closed");
    assert!(leaving.reply(&call).rv().is_ok());
    assert!(leaving.record().is_none());
}

/// The connections wait in the kernel's queue for the one worker. With a full queue, connecting takes a second.
#[test]
fn a_hundred_clients_that_connect_at_once_do_not_wait_for_the_kernel() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.max_threads = 1;
    let daemon = setup.start();
    let _first = Client::ready(&daemon);
    let begun = Instant::now();
    let _waiting: Vec<Client> = (0..100).map(|_| Client::new(&daemon)).collect();
    assert!(
        begun.elapsed() < Duration::from_millis(800),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
#[ignore = "soak: make soak"]
fn a_thousand_idle_clients_and_ten_thousand_that_come_and_go_keep_nobody_waiting() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.max_threads = 1100;
    let daemon = setup.start();
    let idle: Vec<Client> = (0..1000).map(|_| Client::ready(&daemon)).collect();
    let begun = Instant::now();
    let mut times: Vec<Duration> = (0..10_000).map(|_| good(&daemon)).collect();
    let took = begun.elapsed();
    times.sort_unstable();
    let [median, late, last] = [5_000, 9_900, 9_999].map(|position| times[position]);
    println!("10000 clients in {took:?}: median {median:?}, 99 % {late:?}, slowest {last:?}");
    assert!(last < SERVED, "{last:?}");
    assert_eq!(idle.len(), 1000);
    drop(idle);
    // Listeners, signals, epoll and the like, and the channel of the idle worker.
    let is_tidy = || daemon.workers().len() == 1 && daemon.process().descriptors() < 30;
    assert!(wait_until(PATIENCE, is_tidy));
}

/// Its calls can still be read, but its address cannot, so that no profile and no limit would be its own.
#[test]
fn a_client_that_has_reset_its_connection_is_not_served() {
    let token = Token::new();
    let directory = Directory::new();
    let log = directory.join("calls");
    let mut setup = setup(&token);
    let told = log.display().to_string();
    setup.environment.push(("NULLMODULE_LOG".into(), told));
    let daemon = setup.start();
    drop(Client::ready(&daemon));
    let calls = || std::fs::read_to_string(&log).map_or(0, |calls| calls.lines().count());
    let before = calls();
    // So that the daemon finds the connections as they are left.
    daemon.process().signal(Signal::SIGSTOP);
    for _ in 0..5 {
        let mut client = Client::new(&daemon);
        client.send(&encoded(&Call::C_LoadModule(b"null")));
        client.send(&encoded(&Call::C_Initialize()));
        let socket = socket2::SockRef::from(&client.0);
        socket.set_linger(Some(Duration::ZERO)).expect("a reset");
    }
    daemon.process().signal(Signal::SIGCONT);
    let dropped = || {
        daemon
            .log()
            .matches("has left before it was served")
            .count()
    };
    assert!(wait_until(PATIENCE, || dropped() == 5), "{}", dropped());
    assert_eq!(calls(), before);
    assert!(good(&daemon) < PATIENCE);
}
