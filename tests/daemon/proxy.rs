//! Tests clients behind a load balancer that sends PROXY headers: who they are, and what is refused.

use xdr::UserType;

use crate::*;

/// A daemon behind balancers at these addresses.
fn proxied(token: &Token, from: &str, more: &str) -> Daemon {
    let mut setup = setup(token);
    setup.processor = format!("proxy_protocol = true; proxy_from = \"{from}\"; {more}");
    setup.start()
}

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The header of a connection of this client.
fn header(client: [u8; 4], port: u16) -> Vec<u8> {
    let addresses = [&client[..], &[127, 0, 0, 1], &port.to_be_bytes(), &[0, 9]].concat();
    [SIGNATURE, &[0x21, 0x11, 0, 12], &addresses].concat()
}

/// The header of a health check.
fn local() -> Vec<u8> {
    [SIGNATURE, &[0x20, 0, 0, 0]].concat()
}

/// A connection that begins with these bytes.
fn begun_with(daemon: &Daemon, bytes: &[u8]) -> Client {
    let mut client = Client::new(daemon);
    client.send(bytes);
    client
}

/// What a client does to be served.
fn load(client: &mut Client) -> bool {
    client.send(&encoded(&Call::C_LoadModule(b"null")));
    client.record().is_some()
}

fn reset(client: Client) {
    let socket = socket2::SockRef::from(&client.0);
    socket.set_linger(Some(Duration::ZERO)).expect("TCP can");
}

/// Waits until what clients have left behind is gone: one idle worker is.
fn is_idle(daemon: &Daemon) -> bool {
    wait_until(PATIENCE, || daemon.workers().len() == 1)
}

#[test]
fn a_client_is_who_the_header_says_however_it_comes() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "proxy_protocol = true; proxy_from = \"127.0.0.0/8\"; \
                       record_timeout = 2.0; sandbox { preset = \"strict\"; };"
        .into();
    setup.daemon = "control_socket = \"../control\";".into();
    let daemon = setup.start();
    let call = encoded(&Call::C_LoadModule(b"null"));
    let header = header([10, 1, 2, 3], 4567);
    // Together with the call, by itself, and a byte at a time.
    let mut clients = vec![begun_with(&daemon, &[&header[..], &call].concat())];
    let mut alone = begun_with(&daemon, &header);
    std::thread::sleep(Duration::from_millis(50));
    alone.send(&call);
    clients.push(alone);
    let mut slow = Client::new(&daemon);
    for byte in header.iter().chain(&call) {
        slow.send(&[*byte]);
        std::thread::sleep(Duration::from_millis(2));
    }
    clients.push(slow);
    for client in &mut clients {
        assert!(client.record().is_some(), "{}", daemon.log());
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
    command
        .arg("-socket")
        .arg(daemon.directory().join("control"));
    command.arg("status");
    let status = run(command, PATIENCE).stdout;
    let name = "10.1.2.3:4567 via 127.0.0.1";
    assert_eq!(status.matches(name).count(), 3, "{status}");
    // What its worker says of the client.
    clients[0].send(&[0x80, 0, 0]);
    assert!(clients[0].is_closed_within(PATIENCE));
    // The controller may write the line a moment later.
    let told = format!("client {name}: ");
    let is_told = wait_until(PATIENCE, || daemon.log().contains(&told));
    assert!(is_told, "{}", daemon.log());
}

#[test]
fn connections_are_counted_by_the_address_in_the_header() {
    let token = Token::new();
    // The balancer's own address has many more than that.
    let daemon = proxied(&token, "127.0.0.1", "max_connections_per_peer = 2;");
    let mut kept = Vec::new();
    for number in 1..=4 {
        for port in 1..=2 {
            let mut client = begun_with(&daemon, &header([10, 1, 2, number], port));
            assert!(load(&mut client), "{}", daemon.log());
            kept.push(client);
        }
    }
    let mut third = begun_with(&daemon, &header([10, 1, 2, 1], 3));
    assert!(third.is_closed_within(Duration::from_secs(5)));
    // A health check finds the daemon alive nonetheless.
    let mut check = begun_with(&daemon, &local());
    assert!(load(&mut check));
    drop(kept.remove(0));
    assert!(wait_until(PATIENCE, || {
        let mut again = begun_with(&daemon, &header([10, 1, 2, 1], 4));
        !again.is_closed_within(Duration::from_millis(200))
    }));
    let log = daemon.log();
    assert!(
        log.contains("client 10.1.2.1 refused: it already has 2 connections"),
        "{log}"
    );
    assert!(!log.contains("terminated"), "{log}");
}

#[test]
fn failed_logins_are_counted_by_the_address_in_the_header() {
    let token = Token::new();
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, &token);
    setup.processor = "proxy_protocol = true; proxy_from = \"127.0.0.1\"; \
                       max_failed_logins = 1; failed_login_window = 600.0;"
        .into();
    let daemon = setup.start();
    let ready = |number| {
        let mut client = begun_with(&daemon, &header([10, 1, 2, number], 1));
        client.call(Call::C_SetupArch(Architecture::host()));
        client.call(Call::C_LoadModule(b"softhsm"));
        client.call(Call::C_Initialize());
        let list = client.call(Call::C_GetSlotList(xdr::Ulong(1), xdr::Count(9)));
        let Reply::C_GetSlotList(list) = list else {
            panic!("{list:?}")
        };
        let opened = client.call(Call::C_OpenSession(list.slots[0], Flags(6)));
        let Reply::C_OpenSession(opened) = opened else {
            panic!("{opened:?}")
        };
        (client, opened.session)
    };
    let login = |(client, session): &mut (Client, SessionHandle), pin: &str| {
        let call = Call::C_Login(*session, UserType(1), pin.as_bytes());
        client.call(call).rv()
    };
    let mut guessing = ready(1);
    assert_eq!(login(&mut guessing, "4321"), CkRv::PIN_INCORRECT);
    assert_eq!(login(&mut ready(1), Token::PIN), CkRv::PIN_LOCKED);
    assert!(login(&mut ready(2), Token::PIN).is_ok());
    let told = "1 failed logins of 10.1.2.1; all others are refused";
    assert!(daemon.log().contains(told), "{}", daemon.log());
}

#[test]
fn only_the_named_addresses_may_connect_and_nothing_goes_without_a_header() {
    let token = Token::new();
    let elsewhere = proxied(&token, "10.0.0.7 10.1.0.0/24", "");
    let mut client = begun_with(&elsewhere, &header([10, 1, 2, 3], 1));
    assert!(client.is_closed_within(PATIENCE));
    let log = elsewhere.log();
    assert!(log.contains("refused: it is not in proxy_from"), "{log}");

    let daemon = proxied(&token, "127.0.0.1", "");
    let version_1 = b"PROXY TCP4 10.1.2.3 127.0.0.1 1 2\r\n";
    let nobody = [SIGNATURE, &[0x21, 0, 0, 0]].concat();
    let cut_off = header([10, 1, 2, 3], 1)[..20].to_vec();
    for (bytes, told) in [
        (
            &encoded(&Call::C_LoadModule(b"null"))[..],
            "no PROXY header of version 2 came first",
        ),
        (version_1, "the PROXY header has version 1"),
        (&nobody, "names no TCP client"),
        (&cut_off, "it ended within the PROXY header"),
    ] {
        let mut client = begun_with(&daemon, bytes);
        client.0.shutdown(Shutdown::Write).expect("connected");
        assert!(client.is_closed_within(PATIENCE));
        let is_told = || daemon.log().contains(told);
        assert!(wait_until(PATIENCE, is_told), "{told}: {}", daemon.log());
    }
    let mut client = begun_with(&daemon, &header([10, 1, 2, 3], 1));
    assert!(load(&mut client));
}

#[test]
fn health_checks_are_no_errors_and_take_no_place() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.max_threads = 2;
    setup.processor = "proxy_protocol = true; proxy_from = \"127.0.0.1\";".into();
    let daemon = setup.start();
    assert!(is_idle(&daemon));
    let before = daemon.log();
    let mut client = begun_with(&daemon, &header([10, 1, 2, 3], 1));
    assert!(load(&mut client));
    // One place is left.
    for number in 0..20 {
        let begun = Instant::now();
        match number % 4 {
            // As of a balancer that sends no header for a check, closed and reset.
            0 => drop(Client::new(&daemon)),
            1 => reset(Client::new(&daemon)),
            2 => drop(begun_with(&daemon, &local())),
            _ => reset(begun_with(&daemon, &local())),
        }
        let mut other = begun_with(&daemon, &header([10, 1, 2, 4], 1));
        assert!(load(&mut other), "{}", daemon.log());
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    drop(client);
    assert!(is_idle(&daemon));
    let log = daemon.log();
    let new = log.strip_prefix(&before).expect("it grows");
    // What each worker says of the filter's settings, it says of clients.
    let served = 1 + 20;
    assert_eq!(new.matches("log subchannel").count(), served, "{new}");
    let mut lines = new.lines().filter(|line| !line.contains("[info]"));
    let is_harmless = |line: &str| line.contains("clients have to wait");
    assert!(lines.all(is_harmless), "{new}");
    assert!(!new.contains("client 127.0.0.1"), "{new}");
}

#[test]
fn silent_clients_behind_a_balancer_have_their_time_and_keep_nobody_out() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.max_threads = 20;
    setup.processor = "proxy_protocol = true; proxy_from = \"127.0.0.1\";".into();
    let daemon = setup.start();
    let good = || {
        let begun = Instant::now();
        let mut client = begun_with(&daemon, &header([10, 9, 9, 9], 1));
        assert!(load(&mut client));
        begun.elapsed()
    };
    let undisturbed = (0..5).map(|_| good()).max().expect("some");
    let limit = Duration::from_secs(1) + 10 * undisturbed;
    // Without a byte, with half a header, with a header, and with half a call behind it.
    let whole = header([10, 1, 2, 3], 1);
    let half_call = [&whole[..], &[0x80, 0, 0]].concat();
    let starts = [&[][..], &whole[..9], &whole, &half_call];
    let _hostile: Vec<Client> = (0..400)
        .map(|number| begun_with(&daemon, starts[number % 4]))
        .collect();
    let times: Vec<Duration> = (0..20).map(|_| good()).collect();
    let slowest = times.iter().max().expect("some");
    assert!(*slowest < limit, "{times:?}, undisturbed {undisturbed:?}");
    drop(daemon);

    let daemon = proxied(&token, "127.0.0.1", "first_call_timeout = 0.5;");
    for start in starts {
        let mut client = begun_with(&daemon, start);
        let begun = Instant::now();
        assert!(client.is_closed_within(PATIENCE));
        let taken = begun.elapsed();
        assert!(taken >= Duration::from_millis(450) && taken < Duration::from_secs(5));
    }
    for told in ["s without a PROXY header", "client 10.1.2.3: ended after"] {
        let is_told = || daemon.log().matches(told).count() == 2;
        assert!(wait_until(PATIENCE, is_told), "{told}: {}", daemon.log());
    }
}

/// The profile and the audit log are those of the client, not of the balancer.
#[test]
fn profiles_and_the_audit_log_know_a_client_by_the_address_in_the_header() {
    let token = Token::new();
    let directory = Directory::new();
    let key = openssl::pkey::PKey::generate_ed25519().expect("a key");
    let pem = key.private_key_to_pem_pkcs8().expect("PEM");
    std::fs::write(directory.join("key.pem"), pem).expect("a file");
    let log = directory.join("audit.log");
    let mut setup = setup(&token);
    setup.daemon = format!(
        "audit {{ file = \"{}\"; key = \"{}\" }};",
        log.display(),
        directory.join("key.pem").display()
    );
    setup.processor = "proxy_protocol = true; proxy_from = \"127.0.0.1\"; \
                       without_profile = \"refuse\"; \
                       profile { name = \"inside\"; network = \"10.1.0.0/16\"; };"
        .into();
    let daemon = setup.start();
    let mut inside = begun_with(&daemon, &header([10, 1, 2, 3], 4567));
    assert!(load(&mut inside), "{}", daemon.log());
    for outside in [header([10, 2, 2, 3], 1), header([127, 0, 0, 1], 1)] {
        let mut outside = begun_with(&daemon, &outside);
        assert!(!load(&mut outside), "{}", daemon.log());
    }
    let name = "10.1.2.3:4567 via 127.0.0.1";
    let told = format!("client {name}: profile inside");
    assert!(wait_until(PATIENCE, || daemon.log().contains(&told)));
    let is_audited = || std::fs::read_to_string(&log).is_ok_and(|log| log.contains(name));
    assert!(wait_until(PATIENCE, is_audited), "{}", daemon.log());
}

/// The check comes over a socket to a worker of its own.
#[test]
fn the_readiness_check_needs_no_header() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "proxy_protocol = true; proxy_from = \"127.0.0.1\";".into();
    setup.daemon = "control_socket = \"../control\";".into();
    let daemon = setup.start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pkcs11proxyctl"));
    command
        .arg("-socket")
        .arg(daemon.directory().join("control"));
    command.arg("ready");
    let outcome = run(command, PATIENCE);
    assert_eq!(outcome.status.code(), Some(0), "{}", outcome.stderr);
}
