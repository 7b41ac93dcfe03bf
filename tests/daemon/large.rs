//! Tests large calls: those that are too long are refused, and the client keeps its connection, session and login.

use xdr::version3::{Attribute, Mechanism, Template};
use xdr::{AttributeType, Count, MechanismType, ObjectHandle, State, UserType};

use crate::*;

/// A record limit of 100000 bytes.
const LIMITED: &str = "max_record_size = 100000;";

/// More bytes than that.
const TOO_MANY: usize = 150_000;

const SHA256: u64 = 0x250;
const SHA256_HMAC: u64 = 0x251;
const AES_CBC_PAD: u64 = 0x1085;

/// What a refused call answers.
fn refused(function: Function, rv: CkRv) -> Reply {
    Reply::of(filter::replies::refused(function, rv)).expect("a function of version 3")
}

/// SoftHSM behind a daemon with this in its `processor`, and a client with a session.
fn softhsm(token: &Token, processor: &str) -> (Daemon, Client) {
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, token);
    setup.processor = processor.into();
    let daemon = setup.start();
    let mut asking = Client::new(&daemon);
    asking.call(Call::C_LoadModule(b"softhsm"));
    asking.call(Call::C_Initialize());
    let slots = asking.call(Call::C_GetSlotList(xdr::Ulong(1), Count(9)));
    let Reply::C_GetSlotList(slots) = slots else {
        panic!("{slots:?}")
    };
    let client = Client::ready_for(&daemon, b"softhsm", slots.slots[0]);
    (daemon, client)
}

fn mechanism(kind: u64) -> Mechanism {
    let parameter = if kind == AES_CBC_PAD {
        vec![7; 16]
    } else {
        Vec::new()
    };
    Mechanism::unread(MechanismType(kind), parameter)
}

/// A key of SoftHSM's that may do everything.
fn key(client: &mut Client, kind: u64) -> ObjectHandle {
    let number = |number: u64| number.to_ne_bytes().to_vec();
    let attribute =
        |(kind, value): (u64, Vec<u8>)| Attribute::new(AttributeType(kind), value.clone());
    let uses = [0x104, 0x105, 0x108, 0x10a].map(|kind| (kind, vec![1]));
    let values = [
        (0x000, number(4)), // CKA_CLASS, CKO_SECRET_KEY
        (0x100, number(kind)),
        (0x001, vec![0]), // CKA_TOKEN
        (0x002, vec![0]), // CKA_PRIVATE
        (0x011, vec![9; 32]),
    ];
    let template = values.into_iter().chain(uses).map(attribute).collect();
    match client.call(Call::C_CreateObject(SESSION, Template(template))) {
        Reply::C_CreateObject(made) if made.rv.is_ok() => made.object,
        other => panic!("{other:?}"),
    }
}

/// The record of a call, cut into fragments.
pub fn in_fragments(call: &impl Asking, size: usize) -> Vec<u8> {
    let record = encoded(call)[4..].to_vec();
    let mut stream = Vec::new();
    for chunk in record.chunks(size) {
        stream.extend_from_slice(&(chunk.len() as u32).to_be_bytes());
        stream.extend_from_slice(chunk);
    }
    stream.extend_from_slice(&[0x80, 0, 0, 0]);
    stream
}

#[test]
fn a_call_over_the_limit_is_refused_and_the_login_lives_on() {
    let token = Token::new();
    let (daemon, mut client) = softhsm(&token, LIMITED);
    let login = client.call(Call::C_Login(SESSION, UserType(1), Token::PIN.as_bytes()));
    assert!(login.rv().is_ok());
    let data = vec![5; 99_000];
    let digest = |client: &mut Client| {
        let begun = client.call(Call::C_DigestInit(SESSION, mechanism(SHA256)));
        assert_eq!(begun.rv(), CkRv::OK);
        let Reply::C_Digest(digest) = client.call(Call::C_Digest(SESSION, &data)) else {
            panic!("another function's reply")
        };
        assert_eq!(digest.rv, CkRv::OK);
        digest.data
    };
    let expected = digest(&mut client);
    let long = vec![5; 5_000_000];
    let long = Call::C_Digest(SESSION, &long);
    let whole = encoded(&long);
    let pieces = [8996, 65532, 100_001].map(|size| in_fragments(&long, size));
    for stream in [whole].iter().chain(&pieces) {
        let begun = client.call(Call::C_DigestInit(SESSION, mechanism(SHA256)));
        assert_eq!(begun.rv(), CkRv::OK);
        client.send(stream);
        let reply = client.reply(&long);
        assert!(reply == refused(Function::C_Digest, CkRv::DATA_LEN_RANGE));
        let Reply::C_GetSessionInfo(told) = client.call(Call::C_GetSessionInfo(SESSION)) else {
            panic!("another function's reply")
        };
        assert_eq!((told.rv, told.info.state), (CkRv::OK, State(3))); // CKS_RW_USER_FUNCTIONS
        assert_eq!(digest(&mut client), expected);
    }
    let logged = "C_Digest refused with CKR_DATA_LEN_RANGE: its record has 5000052 bytes, max_record_size is 100000";
    assert!(wait_until(PATIENCE, || daemon.log().contains(logged)));
}

/// By PKCS#11 a failing call ends its operation.
#[test]
fn a_refused_call_ends_its_operation_and_no_other() {
    let token = Token::new();
    let (_daemon, mut client) = softhsm(&token, LIMITED);
    let secret = key(&mut client, 0x10);
    let aes = key(&mut client, 0x1f);
    let long = vec![1; TOO_MANY];
    let digest = || Call::C_DigestInit(SESSION, mechanism(SHA256));
    let sign = || Call::C_SignInit(SESSION, mechanism(SHA256_HMAC), secret);
    let verify = || Call::C_VerifyInit(SESSION, mechanism(SHA256_HMAC), secret);
    let encrypt = || Call::C_EncryptInit(SESSION, mechanism(AES_CBC_PAD), aes);
    let decrypt = || Call::C_DecryptInit(SESSION, mechanism(AES_CBC_PAD), aes);
    let none: &[Call<'_>] = &[];
    let ways = [
        (digest(), none, Call::C_Digest(SESSION, &long)),
        (digest(), none, Call::C_DigestUpdate(SESSION, &long)),
        (sign(), none, Call::C_Sign(SESSION, &long)),
        (sign(), none, Call::C_SignUpdate(SESSION, &long)),
        (verify(), none, Call::C_Verify(SESSION, &long, &[1; 32])),
        (verify(), none, Call::C_VerifyUpdate(SESSION, &long)),
        (
            verify(),
            &[Call::C_VerifyUpdate(SESSION, b"data")],
            Call::C_VerifyFinal(SESSION, &long),
        ),
        (encrypt(), none, Call::C_Encrypt(SESSION, &long)),
        (
            encrypt(),
            &[Call::C_EncryptUpdate(SESSION, b"a part")],
            Call::C_EncryptUpdate(SESSION, &long),
        ),
        (decrypt(), none, Call::C_Decrypt(SESSION, &long)),
        (decrypt(), none, Call::C_DecryptUpdate(SESSION, &long)),
    ];
    for (init, parts, call) in &ways {
        let name = call.function().name();
        for call in [init].into_iter().chain(*parts) {
            assert_eq!(client.call(call.clone()).rv(), CkRv::OK, "before {name}");
        }
        let reply = client.call(call.clone());
        assert!(
            reply == refused(call.function(), CkRv::DATA_LEN_RANGE),
            "{name}"
        );
        assert_eq!(client.call(init.clone()).rv(), CkRv::OK, "after {name}");
        // Ends it again.
        assert_eq!(client.call(call.clone()).rv(), CkRv::DATA_LEN_RANGE);
    }
    // Calls of no operation leave it alone.
    assert_eq!(client.call(digest()).rv(), CkRv::OK);
    let template = Template(vec![Attribute::new(AttributeType(0x11), long.clone())]);
    let created = client.call(Call::C_CreateObject(SESSION, template));
    assert_eq!(created.rv(), CkRv::DATA_LEN_RANGE);
    let digested = client.call(Call::C_Digest(SESSION, b"abc"));
    assert_eq!(digested.rv(), CkRv::OK);
}

/// Each in the form of its function; the arguments are not looked at.
#[test]
fn every_function_refuses_what_is_too_long_in_its_own_form() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = LIMITED.into();
    let daemon = setup.start();
    let mut client = Client::ready(&daemon);
    let mut refusals = 0;
    for function in xdr::version3::FUNCTIONS.iter().copied() {
        let header = [7, 0, 2, 4, 3, function.number(), 0, 0, 0, 0];
        let mut record = ((40 + TOO_MANY) as u32 | 1 << 31).to_be_bytes().to_vec();
        record.extend(header.iter().flat_map(|word| word.to_be_bytes()));
        record.resize(4 + 40 + TOO_MANY, 0);
        client.send(&record);
        let answer = client.record().expect("the connection lives on");
        match rpc::read_reply::<Call<'_>>(Xid(7), function, &answer).expect("its xid") {
            Ok(reply) => {
                assert!(
                    reply == refused(function, CkRv::DATA_LEN_RANGE),
                    "{function:?}"
                );
                refusals += 1;
            }
            // GARBAGE_ARGS: no call of the function has that length.
            Err(error) => assert_eq!(error, rpc::ReplyError::NotExecuted(4), "{function:?}"),
        }
    }
    assert_eq!(refusals, 41);
    // Other statuses are as for short ones.
    for (word, value, expected) in [
        (5, 71, rpc::ReplyError::NotExecuted(3)),
        (4, 2, rpc::ReplyError::NotExecuted(2)),
        (3, 5, rpc::ReplyError::NotExecuted(1)),
        (2, 3, rpc::ReplyError::Denied(0)),
    ] {
        let mut header = [7, 0, 2, 4, 3, 38, 0, 0, 0, 0];
        header[word] = value;
        let mut record = ((40 + TOO_MANY) as u32 | 1 << 31).to_be_bytes().to_vec();
        record.extend(header.iter().flat_map(|word: &u32| word.to_be_bytes()));
        record.resize(4 + 40 + TOO_MANY, 0);
        client.send(&record);
        let answer = client.record().expect("the connection lives on");
        let reply = rpc::read_reply::<Call<'_>>(Xid(7), Function::C_Digest, &answer);
        assert_eq!(reply.expect("its xid").err(), Some(expected));
    }
    assert!(client.call(Call::C_GetInfo()).rv().is_ok());
}

#[test]
fn what_is_too_long_and_no_call_ends_the_connection() {
    let token = Token::new();
    let mut setup = setup(&token);
    setup.processor = format!("{LIMITED} record_timeout = 2.0;");
    let daemon = setup.start();
    let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 9, 9, 9];
    for stream in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &hello] {
        let mut client = Client::new(&daemon);
        client.send(stream);
        assert!(
            client.is_closed_within(Duration::from_secs(1)),
            "after {stream:x?}"
        );
    }
    assert!(wait_until(Duration::from_secs(5), || {
        daemon.log().matches("a long record is not a call").count() == 2
    }));
    // What may become a call has its time.
    for mark in [[0xff, 0xff, 0xff, 0xff], 100_001u32.to_be_bytes()] {
        let mut client = Client::new(&daemon);
        client.send(&mark);
        assert!(!client.is_closed_within(Duration::from_secs(1)));
        assert!(client.is_closed_within(Duration::from_secs(5)));
    }
    assert!(Client::ready(&daemon).call(Call::C_GetInfo()).rv().is_ok());
}

/// A field of /proc/PID/status that counts kB, in bytes; 0 when the process is gone.
fn memory(worker: &Process, field: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid));
    let status = status.unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.map(|line| line.trim().trim_end_matches(" kB").parse::<usize>());
    number.map_or(0, |number| number.expect("a number") << 10)
}

/// What README.md says that a call takes.
#[test]
fn a_large_call_takes_as_much_memory_as_is_reckoned_with() {
    const SIZE: usize = 20 << 20;
    const SLACK: usize = 8 << 20;
    let token = Token::new();
    let mut setup = setup(&token);
    setup.max_threads = 1;
    let daemon = setup.start();
    let data = vec![3; SIZE];
    let template = || Template(vec![Attribute::new(AttributeType(0x11), data.clone())]);
    let object = ObjectHandle(1);
    for (call, copies) in [
        (Call::C_Digest(SESSION, &data), 1),
        (Call::C_VerifyUpdate(SESSION, &data), 1),
        (Call::C_SetOperationState(SESSION, &data, object, object), 1),
        (Call::C_Encrypt(SESSION, &data), 2),
        (Call::C_DecryptDigestUpdate(SESSION, &data), 2),
        (Call::C_GenerateRandom(SESSION, xdr::Ulong(SIZE as u64)), 1),
        (Call::C_CreateObject(SESSION, template()), 5),
        (Call::C_GetAttributeValue(SESSION, object, template()), 5),
    ] {
        let name = call.function().name();
        let mut client = Client::ready(&daemon);
        let worker = &daemon.workers()[0];
        let before = memory(worker, "VmRSS:");
        assert!(client.call(call).rv().is_ok(), "{name}");
        let peak = memory(worker, "VmHWM:") - before;
        assert!(peak <= copies * SIZE + SLACK, "{name}: {peak}");
        assert!(peak + SLACK >= SIZE, "{name}: {peak}");
        assert!(client.call(Call::C_GetInfo()).rv().is_ok());
        let kept = memory(worker, "VmRSS:").saturating_sub(before);
        assert!(kept <= SLACK, "{name} leaves {kept}");
    }
}

/// The whole of what the clients of a service take together.
const BUDGET: usize = 64 << 20;

/// A null module behind a daemon with this budget and this in its `processor`.
fn budgeted(token: &Token, processor: &str) -> Daemon {
    let mut setup = setup(token);
    setup.processor = format!("record_memory = {BUDGET}; {processor}");
    setup.start()
}

/// Sends the beginning of a record; the client owes `rest` bytes.
fn begin(client: &mut Client, record: &[u8], rest: usize) {
    client.send(&record[..record.len() - rest]);
}

#[test]
fn many_clients_together_stay_within_the_budget() {
    const CLIENTS: usize = 12;
    let token = Token::new();
    let daemon = budgeted(&token, "");
    let data = vec![1; 20 << 20];
    let call = Call::C_Digest(SESSION, &data);
    let record = encoded(&call);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::ready(&daemon)).collect();
    let workers = daemon.workers();
    let resident = || -> usize { workers.iter().map(|it| memory(it, "VmRSS:")).sum() };
    let before = resident();
    // All of it but the last byte: every worker has what it takes, or has dropped it.
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| begin(client, &record, 1));
        }
    });
    let taken = resident().saturating_sub(before);
    assert!(taken <= BUDGET + CLIENTS * (4 << 20), "{taken} bytes");
    let mut served = 0;
    for client in &mut clients {
        client.send(&record[record.len() - 1..]);
        let reply = client.reply(&call);
        let is_refused = reply == refused(Function::C_Digest, CkRv::DEVICE_MEMORY);
        assert!(is_refused || reply.rv().is_ok(), "{reply:?}");
        served += usize::from(!is_refused);
    }
    assert!((1..=BUDGET / data.len()).contains(&served), "{served}");
    let logged = "C_Digest refused with CKR_DEVICE_MEMORY: its record has 20971572 bytes, which takes 20971572 bytes of memory, and other large calls leave less of record_memory";
    assert!(wait_until(PATIENCE, || daemon.log().contains(logged)));
    // Everybody lives on, one after the other.
    for client in &mut clients {
        assert_eq!(client.call(call.clone()).rv(), CkRv::OK);
    }
    // Small calls need nothing of the budget.
    let mut holding = Client::ready(&daemon);
    let most = vec![1; BUDGET - (1 << 20)];
    begin(&mut holding, &encoded(&Call::C_Digest(SESSION, &most)), 1);
    let small = vec![1; 1 << 20];
    for client in &mut clients {
        assert_eq!(client.call(Call::C_Encrypt(SESSION, &small)).rv(), CkRv::OK);
    }
}

#[test]
fn what_takes_more_than_the_budget_is_too_long() {
    let token = Token::new();
    let daemon = budgeted(&token, "");
    let mut client = Client::ready(&daemon);
    let data = vec![1; BUDGET / 2 + (1 << 20)];
    assert_eq!(client.call(Call::C_Digest(SESSION, &data)).rv(), CkRv::OK);
    let encrypt = Call::C_Encrypt(SESSION, &data);
    assert_eq!(client.call(encrypt.clone()).rv(), CkRv::DATA_LEN_RANGE);
    client.send(&in_fragments(&encrypt, 65532));
    assert_eq!(client.reply(&encrypt).rv(), CkRv::DATA_LEN_RANGE);
    assert_eq!(client.call(Call::C_Digest(SESSION, &data)).rv(), CkRv::OK);
    let template = Template(vec![Attribute::new(AttributeType(0x11), data)]);
    let created = client.call(Call::C_CreateObject(SESSION, template));
    assert_eq!(created.rv(), CkRv::DATA_LEN_RANGE);
}

/// A client that holds nearly all of the budget, and one that is refused until then.
fn holding<'a>(daemon: &'a Daemon, data: &'a [u8]) -> (Client, Client, Call<'a>) {
    let mut holding = Client::ready(daemon);
    let most = vec![1; BUDGET - (1 << 20)];
    begin(&mut holding, &encoded(&Call::C_Digest(SESSION, &most)), 1);
    let mut waiting = Client::ready(daemon);
    let call = Call::C_Digest(SESSION, data);
    assert!(wait_until(PATIENCE, || {
        waiting.call(call.clone()).rv() == CkRv::DEVICE_MEMORY
    }));
    (holding, waiting, call)
}

#[test]
fn the_share_of_a_killed_worker_comes_back() {
    let token = Token::new();
    let daemon = budgeted(&token, "");
    let data = vec![1; 30 << 20];
    for _ in 0..3 {
        let (_holding, mut waiting, call) = holding(&daemon, &data);
        let largest = daemon.workers().into_iter();
        let largest = largest.max_by_key(|worker| memory(worker, "VmRSS:"));
        largest.expect("it holds memory").signal(Signal::SIGKILL);
        assert!(wait_until(PATIENCE, || {
            waiting.call(call.clone()).rv().is_ok()
        }));
    }
}

#[test]
fn a_client_that_leaves_or_is_too_slow_gives_its_share_back() {
    let token = Token::new();
    let daemon = budgeted(&token, "record_timeout = 5.0;");
    let data = vec![1; 30 << 20];
    let (mut holding_on, mut waiting, call) = holding(&daemon, &data);
    assert!(holding_on.is_closed_within(PATIENCE));
    assert!(wait_until(PATIENCE, || {
        waiting.call(call.clone()).rv().is_ok()
    }));
    let (leaving, mut waiting, call) = holding(&daemon, &data);
    drop(leaving);
    assert!(wait_until(PATIENCE, || {
        waiting.call(call.clone()).rv().is_ok()
    }));
    // Random data is a large result of a small call.
    let random = Call::C_GenerateRandom(SESSION, xdr::Ulong(40 << 20));
    assert!(waiting.call(random.clone()).rv().is_ok());
    let (_holding, mut waiting, _) = holding(&daemon, &data);
    let refusal = refused(Function::C_GenerateRandom, CkRv::DEVICE_MEMORY);
    assert!(waiting.call(random) == refusal);
    let little = Call::C_GenerateRandom(SESSION, xdr::Ulong(1 << 20));
    assert!(waiting.call(little).rv().is_ok());
}

/// With the defaults.
#[test]
fn a_call_of_100_mib_is_executed() {
    let token = Token::new();
    let (_daemon, mut client) = softhsm(&token, "");
    let login = client.call(Call::C_Login(SESSION, UserType(1), Token::PIN.as_bytes()));
    assert!(login.rv().is_ok());
    let begun = client.call(Call::C_DigestInit(SESSION, mechanism(SHA256)));
    assert_eq!(begun.rv(), CkRv::OK);
    let data = vec![0; 100 << 20];
    let Reply::C_Digest(digest) = client.call(Call::C_Digest(SESSION, &data)) else {
        panic!("another function's reply")
    };
    assert_eq!(digest.rv, CkRv::OK);
    // head -c 104857600 /dev/zero | sha256sum
    assert_eq!(
        digest.data[..8],
        [0x20, 0x49, 0x2a, 0x4d, 0x0d, 0x84, 0xf8, 0xbe]
    );
    assert!(client.call(Call::C_Logout(SESSION)).rv().is_ok());
}

#[test]
fn a_long_name_of_a_module_is_not_looked_up() {
    let token = Token::new();
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, &token);
    setup.modules = vec![(".*".into(), module("nullmodule"))];
    let daemon = setup.start();
    for (length, is_known) in [(1024, true), (1025, false), (1 << 20, false)] {
        let name = vec![b'x'; length];
        let loaded = Client::new(&daemon).call(Call::C_LoadModule(&name)).rv();
        let expected = if is_known {
            CkRv::OK
        } else {
            CkRv::GENERAL_ERROR
        };
        assert_eq!(loaded, expected, "{length}");
    }
    let end = format!("'{}...' is not configured", "x".repeat(256));
    assert!(wait_until(PATIENCE, || daemon.log().matches(&end).count() == 2));
}
