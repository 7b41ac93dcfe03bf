//! Tests peers that do not finish their handshake: they lose their worker and keep nobody out.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};

use super::support::processes::{run, wait_until};
use super::support::{Daemon, Endpoint, Maker, Token};
use super::tls::{Tls, command, library, serves};

use Maker::Ours;

/// The beginning of a ClientHello.
const HALF_A_HELLO: &[u8] = &[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3, 1, 2, 3];

fn daemon(processor: &str, max_threads: u32) -> (Daemon, Token) {
    let token = Token::new();
    let mut setup = Tls::default().setup(Ours, Endpoint::Tcp, &token);
    setup.processor.push_str(processor);
    setup.max_threads = max_threads;
    (setup.start(), token)
}

#[test]
fn a_peer_that_stops_within_the_handshake_is_dropped_in_time() {
    let (daemon, _token) = daemon("handshake_timeout = 1.0;", 50);
    for first in [&[][..], HALF_A_HELLO] {
        let mut peer = TcpStream::connect(daemon.address()).expect("it listens");
        peer.write_all(first).expect("it is connected");
        // Trickling does not help.
        let mut trickle = peer.try_clone().expect("a descriptor more");
        let started = Instant::now();
        let writer = std::thread::spawn(move || {
            while !first.is_empty() && trickle.write_all(&[0]).is_ok() {
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        peer.set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a time");
        while peer.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        let took = started.elapsed();
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_secs(3),
            "{took:?}"
        );
        writer.join().expect("it does not panic");
    }
    let log = daemon.log();
    assert_eq!(
        log.matches("the TLS handshake took longer than 1 s")
            .count(),
        2,
        "{log}"
    );
    assert!(wait_until(Duration::from_secs(5), || daemon
        .workers()
        .len()
        == 1));
    serves(&daemon, "client", &[]);
}

/// With room for fifty workers: those that take their time make room for others.
#[test]
fn two_hundred_peers_that_stop_within_the_handshake_delay_nobody() {
    let (daemon, _token) = daemon("", 50);
    let started = Instant::now();
    serves(&daemon, "client", &[]);
    let undisturbed = started.elapsed();
    let descriptors = daemon.process().descriptors();
    let mut peers = Vec::new();
    for _ in 0..200 {
        let mut peer = TcpStream::connect(daemon.address()).expect("it listens");
        // Fails when it was dropped already to make room.
        let _ = peer.write_all(HALF_A_HELLO);
        peers.push(peer);
    }
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let started = Instant::now();
        serves(&daemon, "client", &[]);
        slowest = slowest.max(started.elapsed());
    }
    let limit = undisturbed + Duration::from_secs(2);
    assert!(
        slowest < limit,
        "{slowest:?} beside 200 peers, {undisturbed:?} without"
    );
    assert!(daemon.workers().len() <= 50);
    // A few lines, not one for each.
    let refused = daemon
        .log()
        .matches("s in its TLS handshake, because")
        .count();
    assert!(
        (1..=20).contains(&refused),
        "{refused} lines: {}",
        daemon.log()
    );
    drop(peers);
    let calm = wait_until(Duration::from_secs(5), || {
        daemon.workers().len() == 1 && daemon.process().descriptors() <= descriptors
    });
    assert!(
        calm,
        "{} workers, {} descriptors",
        daemon.workers().len(),
        daemon.process().descriptors()
    );
}

/// Once a TLS record or a call has begun it has to be complete in time; between calls there is no
/// limit.
#[test]
fn a_client_may_idle_between_calls_but_not_within_one() {
    let (daemon, _token) = daemon("record_timeout = 0.5; handshake_timeout = 5.0;", 50);
    let connector = connector();
    let null = hex(NULL);
    for part in [null.len() - 1, 2] {
        let peer = TcpStream::connect(daemon.address()).expect("it listens");
        peer.set_read_timeout(Some(Duration::from_secs(10)))
            .expect("a time");
        let mut stream = connector.connect("localhost", peer).expect("a handshake");
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(800));
            stream.write_all(&null).expect("it is connected");
            let mut reply = [0; 28];
            stream.read_exact(&mut reply).expect("an answer");
        }
        let started = Instant::now();
        stream.write_all(&null[..part]).expect("it is connected");
        assert!(!stream.read(&mut [0; 28]).is_ok_and(|count| count > 0));
        let took = started.elapsed();
        assert!(
            took > Duration::from_millis(400) && took < Duration::from_secs(3),
            "{took:?}"
        );
    }
    // Half a TLS record.
    let peer = TcpStream::connect(daemon.address()).expect("it listens");
    let mut stream = connector.connect("localhost", peer).expect("a handshake");
    let started = Instant::now();
    stream
        .get_mut()
        .write_all(&[23, 3, 3, 0, 100, 1])
        .expect("it is connected");
    assert!(!stream.read(&mut [0; 28]).is_ok_and(|count| count > 0));
    assert!(started.elapsed() < Duration::from_secs(3));
    let told = || {
        daemon
            .log()
            .matches("a record did not arrive completely within 0.5 s")
            .count()
    };
    assert!(
        wait_until(Duration::from_secs(5), || told() == 3),
        "{}",
        daemon.log()
    );
}

#[test]
fn a_client_that_makes_no_call_after_its_handshake_is_dropped_in_time() {
    let (daemon, _token) = daemon("first_call_timeout = 1.0;", 50);
    for first in [&[][..], &hex(NULL)[..20]] {
        let peer = TcpStream::connect(daemon.address()).expect("it listens");
        // The time begins when the handshake is over.
        std::thread::sleep(Duration::from_millis(600));
        let mut stream = connector().connect("localhost", peer).expect("a handshake");
        let started = Instant::now();
        stream.write_all(first).expect("it is connected");
        assert!(!stream.read(&mut [0; 28]).is_ok_and(|count| count > 0));
        let took = started.elapsed();
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_secs(3),
            "{took:?}"
        );
    }
    let log = daemon.log();
    assert_eq!(log.matches("s without a complete call").count(), 2, "{log}");
    serves(&daemon, "client", &[]);
}

/// Two clients of one address.
#[test]
fn guesses_of_a_pin_count_for_the_certificate_that_makes_them() {
    let (daemon, _token) = daemon("max_failed_logins = 2;", 50);
    let login = |own: &str, pin: &str| {
        let mut command = command("pkcs11-tool", &daemon, own);
        command.arg("--module").arg(library(Ours).path());
        command.args(["--login", "--pin", pin, "--list-objects"]);
        run(command, Duration::from_secs(40))
    };
    for (pin, expected) in [
        ("4321", "CKR_PIN_INCORRECT"),
        ("4321", "CKR_PIN_INCORRECT"),
        (Token::PIN, "CKR_PIN_LOCKED"),
    ] {
        let outcome = login("client", pin);
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    }
    let other = login("client-other", Token::PIN);
    assert!(other.status.success(), "{}", other.stderr);
    let log = daemon.log();
    assert!(
        log.contains("2 failed logins of the certificate of "),
        "{log}"
    );
}

/// As clients do that are killed: no alert, only the end of the connection.
#[test]
fn a_client_that_leaves_without_a_word_is_nothing_to_warn_of() {
    let (daemon, _token) = daemon("", 50);
    let peer = TcpStream::connect(daemon.address()).expect("it listens");
    let mut stream = connector().connect("localhost", peer).expect("a handshake");
    stream.write_all(&hex(NULL)).expect("it is connected");
    stream.read_exact(&mut [0; 28]).expect("an answer");
    drop(stream);
    let gone = wait_until(Duration::from_secs(5), || daemon.workers().len() == 1);
    assert!(gone, "{} workers", daemon.workers().len());
    assert!(!daemon.log().contains("[warning]"), "{}", daemon.log());
}

/// The header comes before the handshake, by itself or with it; what is behind it is for TLS.
#[test]
fn a_client_behind_a_load_balancer_shakes_hands_behind_the_proxy_header() {
    let parameters = "proxy_protocol = true; proxy_from = \"127.0.0.1\"; first_call_timeout = 1.0;";
    let (daemon, _token) = daemon(parameters, 50);
    let addresses = [10, 1, 2, 3, 127, 0, 0, 1, 0, 7, 0, 9];
    let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &addresses].concat();
    for pause in [0, 100] {
        let mut peer = TcpStream::connect(daemon.address()).expect("it listens");
        peer.write_all(&header).expect("it is connected");
        std::thread::sleep(Duration::from_millis(pause));
        let mut stream = connector().connect("localhost", peer).expect("a handshake");
        stream.write_all(&hex(NULL)).expect("it is connected");
        stream.read_exact(&mut [0; 28]).expect("an answer");
    }
    let before = daemon.log();
    assert!(!before.contains("[warning]"), "{before}");
    // A health check that goes no further, and a handshake that does not come.
    let mut check = TcpStream::connect(daemon.address()).expect("it listens");
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    check.write_all(local).expect("it is connected");
    drop(check);
    let gone = wait_until(Duration::from_secs(5), || daemon.workers().len() == 1);
    assert!(
        gone && !daemon.log().contains("[warning]"),
        "{}",
        daemon.log()
    );
    let mut peer = TcpStream::connect(daemon.address()).expect("it listens");
    peer.write_all(&[&header[..], b"no TLS at all"].concat())
        .expect("it is connected");
    let told = || {
        daemon
            .log()
            .contains("client 10.1.2.3:7 via 127.0.0.1: the client does not use TLS")
    };
    assert!(wait_until(Duration::from_secs(5), told), "{}", daemon.log());
}

/// A client with a good certificate.
fn connector() -> SslConnector {
    let mut connector = SslConnector::builder(SslMethod::tls_client()).expect("OpenSSL works");
    let file = super::support::certificates::certificate;
    connector
        .set_certificate_chain_file(file("client.pem"))
        .expect("made before");
    connector
        .set_private_key_file(file("client.key"), SslFiletype::PEM)
        .expect("made before");
    connector.set_verify(SslVerifyMode::NONE);
    connector.build()
}

/// A call of procedure 0, which the interface does not have.
const NULL: &str = "80000028 11220001 00000000 00000002 00000004 00000003 00000000 00000000 00000000 00000000 00000000";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text
        .chars()
        .filter(|character| !character.is_whitespace())
        .collect();
    let pairs = digits.chunks(2).map(|pair| pair.iter().collect::<String>());
    pairs
        .map(|pair| u8::from_str_radix(&pair, 16).expect("hexadecimal"))
        .collect()
}
