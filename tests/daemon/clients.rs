//! Tests unusual clients: records in pieces, too slow or never read, and too many clients at once.

use crate::*;

#[test]
fn a_record_mark_in_two_pieces_is_answered() {
    let token = Token::new();
    let daemon = setup(&token).start();
    let mut client = Client::new(&daemon);
    let call = Call::C_SetupArch(Architecture::host());
    for byte in encoded(&call) {
        client.send(&[byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(client.reply(&call) == Reply::C_SetupArch(Architecture::host()));
}

#[test]
fn any_fragmentation_pipelining_and_half_closing_are_served() {
    let token = Token::new();
    let daemon = setup(&token).start();
    let mut client = Client::ready(&daemon);
    let data = vec![5; 200_000];
    let call = Call::C_Digest(SESSION, &data);
    let record = encoded(&call)[4..].to_vec();
    for size in [4, 1000, 8996, 65532, 150_000] {
        let mut stream = vec![0; 8]; // two empty fragments
        for chunk in record.chunks(size) {
            stream.extend_from_slice(&(chunk.len() as u32).to_be_bytes());
            stream.extend_from_slice(chunk);
        }
        stream.extend_from_slice(&[0x80, 0, 0, 0]);
        client.send(&stream);
        assert!(client.reply(&call).rv().is_ok(), "in fragments of {size}");
    }
    client.send(&[0x80, 0, 0, 0]); // an empty record: no answer
    let small = Call::C_Digest(SESSION, b"abc");
    client.send(&encoded(&small).repeat(50));
    client.0.shutdown(Shutdown::Write).expect("half closed");
    for _ in 0..50 {
        assert!(client.reply(&small).rv().is_ok());
    }
    assert!(client.record().is_none());
}

#[test]
fn a_record_that_is_not_completed_in_time_ends_the_connection() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "record_timeout = 0.5;".into();
    let daemon = setup.start();
    let mut idle = Client::ready(&daemon);
    let mut stuck = Client::ready(&daemon);
    let mut trickling = Client::ready(&daemon);
    // An empty record in two pieces.
    idle.send(&[0x80, 0]);
    std::thread::sleep(Duration::from_millis(50));
    idle.send(&[0, 0]);
    let begun = Instant::now();
    stuck.send(&[0x80, 0]);
    let dripping = std::thread::spawn(move || {
        let record = encoded(&Call::C_Digest(SESSION, &[0; 1000]));
        for byte in record {
            if trickling.0.write_all(&[byte]).is_err() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    });
    assert!(stuck.is_closed_within(Duration::from_secs(5)));
    assert!(begun.elapsed() >= Duration::from_millis(450));
    assert!(
        dripping.join().expect("no panic"),
        "a byte now and then kept the connection"
    );
    // Between two records a client may take its time.
    assert!(idle.call(Call::C_GetInfo()).rv().is_ok());
}

#[test]
fn a_client_that_does_not_take_its_replies_is_given_up() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "record_timeout = 0.5;".into();
    let daemon = setup.start();
    let client = Client::ready(&daemon);
    let mut sending = client.0.try_clone().expect("a descriptor more");
    let flood = std::thread::spawn(move || {
        let call = encoded(&Call::C_GenerateRandom(SESSION, xdr::Ulong(100_000)));
        (0..100_000).any(|_| sending.write_all(&call).is_err())
    });
    assert!(flood.join().expect("no panic"), "the worker waits for ever");
    drop(client);
}

#[test]
fn silent_clients_do_not_keep_others_out() {
    let token = Token::new();
    let daemon = setup(&token).start();
    let silent: Vec<Client> = (0..30).map(|_| Client::new(&daemon)).collect();
    let begun = Instant::now();
    assert!(Client::ready(&daemon).call(Call::C_GetInfo()).rv().is_ok());
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(silent);
    assert!(wait_until(Duration::from_secs(5), || daemon
        .workers()
        .len()
        == 1));
}

#[test]
fn at_the_limit_of_workers_a_client_waits_for_its_turn() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.max_threads = 2;
    let daemon = setup.start();
    assert!(wait_until(Duration::from_secs(5), || daemon
        .workers()
        .len()
        == 1));
    let first = Client::ready(&daemon);
    let _second = Client::ready(&daemon);
    let mut third = Client::new(&daemon);
    let call = Call::C_SetupArch(Architecture::host());
    third.send(&encoded(&call));
    assert!(!third.is_closed_within(Duration::from_millis(300)));
    assert_eq!(daemon.workers().len(), 2);
    assert!(
        daemon.log().contains("all 2 workers are busy"),
        "{}",
        daemon.log()
    );
    drop(first);
    third
        .0
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a timeout");
    assert!(third.reply(&call) == Reply::C_SetupArch(Architecture::host()));
}

#[test]
fn clients_of_one_address_do_not_keep_those_of_another_out() {
    let token = Token::new();
    let directory = Directory::new();
    let path = directory.join("other");
    let mut setup = setup(&token);
    setup.max_threads = 1;
    setup.service = format!(
        "protocol {{ name = \"other\"; address {{ type = \"local\"; path = \"{}\" }} }};",
        path.display()
    );
    let daemon = setup.start();
    let first = Client::ready(&daemon);
    let connect = |_| UnixStream::connect(&path).expect("the daemon listens");
    let mut waiting: Vec<UnixStream> = (0..6).map(connect).collect();
    let mut other = Client::new(&daemon);
    let call = Call::C_SetupArch(Architecture::host());
    other.send(&encoded(&call));
    // All of them wait for the one worker. Two who leave make way for the other.
    drop(first);
    waiting.drain(..2);
    assert!(other.reply(&call) == Reply::C_SetupArch(Architecture::host()));
    drop(waiting);
}

#[test]
fn one_peer_gets_no_more_connections_than_configured() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = "max_connections_per_peer = 2;".into();
    let daemon = setup.start();
    // The fixture's own connection, by which it sees that the daemon listens, must be gone.
    assert!(wait_until(Duration::from_secs(5), || daemon
        .workers()
        .len()
        == 1));
    let first = Client::ready(&daemon);
    let _second = Client::ready(&daemon);
    assert!(Client::new(&daemon).is_closed_within(Duration::from_secs(5)));
    drop(first);
    assert!(wait_until(Duration::from_secs(5), || {
        let mut again = Client::new(&daemon);
        !again.is_closed_within(Duration::from_millis(100))
    }));
}
