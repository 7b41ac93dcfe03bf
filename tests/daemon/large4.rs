//! Tests large calls of version 4: those that are too long are refused, also between calls that overlap them.

use filter::replies::refused;
use xdr::{
    Call, Hello, HelloResult, Input, Mechanism, MechanismType, Reply, Room, State, UserType,
};

use crate::large::in_fragments;
use crate::*;

/// What the daemon takes, in bytes, and a call of twice as many.
const LIMIT: usize = 1 << 20;
const TOO_MANY: usize = 2 * LIMIT;

/// Makes the first calls of version 4; the session is [`SESSION`].
fn ready(daemon: &Daemon, module: &[u8], slot: Option<SlotId>) -> Client {
    let mut client = Client::new(daemon);
    let hello = Hello {
        longest_record: xdr::Ulong(1 << 30),
        parallel_calls: xdr::Ulong(16),
        ..Default::default()
    };
    let Reply::C_SetupArch(HelloResult { rv, hello }) = client.call(Call::C_SetupArch(hello))
    else {
        panic!("another function's reply")
    };
    assert_eq!((rv, hello.longest_record.0), (CkRv::OK, LIMIT as u64));
    assert_eq!(client.call(Call::C_LoadModule(module)).rv(), CkRv::OK);
    assert_eq!(client.call(Call::C_Initialize(Flags(2))).rv(), CkRv::OK);
    let slot = slot.unwrap_or_else(|| {
        let present = Call::C_GetSlotList(xdr::Ulong(1), Room::Buffer(9));
        let Reply::C_GetSlotList(list) = client.call(present) else {
            panic!("another function's reply")
        };
        list.slots[0]
    });
    let opened = client.call(Call::C_OpenSession(slot, Flags(6), false));
    assert_eq!(opened.rv(), CkRv::OK);
    client
}

fn limited(setup: &mut Setup) {
    setup.processor = format!("max_record_size = {LIMIT};");
}

fn digest_init() -> Call<'static> {
    let sha256 = Mechanism::bare(MechanismType(0x250));
    Call::C_DigestInit(SESSION, Some(sha256))
}

fn digest(data: &[u8]) -> Call<'_> {
    Call::C_Digest(SESSION, Input::Bytes(data), Room::Buffer(32))
}

/// What our own client does not send, because the daemon has told it the limit.
fn xid(round: u32, place: usize) -> Xid {
    Xid(100 + 4 * round + place as u32)
}

#[test]
fn a_call_over_the_limit_is_refused_and_the_session_lives_on() {
    let token = Token::new();
    let mut setup = Setup::new(Maker::Ours, Endpoint::Tcp, &token);
    limited(&mut setup);
    let daemon = setup.start();
    let mut client = ready(&daemon, b"softhsm", None);
    let pin = Input::Bytes(Token::PIN.as_bytes());
    let login = client.call(Call::C_Login(SESSION, UserType(1), pin));
    assert_eq!(login.rv(), CkRv::OK);
    let expected = {
        assert_eq!(client.call(digest_init()).rv(), CkRv::OK);
        let Reply::C_Digest(result) = client.call(digest(b"abc")) else {
            panic!("another function's reply")
        };
        result.data
    };
    assert_eq!(expected.len(), 32);
    let long = vec![5; TOO_MANY];
    let long = digest(&long);
    let streams = [
        encoded_as(&long, false),
        encoded_as(&long, true),
        in_fragments(&long, 65532),
    ];
    for stream in &streams {
        assert_eq!(client.call(digest_init()).rv(), CkRv::OK);
        client.send(stream);
        assert!(client.reply(&long) == refused(Function::C_Digest, CkRv::DATA_LEN_RANGE));
        let Reply::C_GetSessionInfo(told) = client.call(Call::C_GetSessionInfo(SESSION)) else {
            panic!("another function's reply")
        };
        assert_eq!((told.rv, told.info.state), (CkRv::OK, State(3))); // CKS_RW_USER_FUNCTIONS
    }
    // A refused call has its turn between those of its session that overlap it. The replies may come in another order.
    let (begin, short) = (digest_init(), digest(b"abc"));
    let mut stream = Vec::new();
    for round in 0..3 {
        for (place, call) in [&begin, &long, &begin, &short].into_iter().enumerate() {
            stream.extend(encoded_with(xid(round, place), call, true));
        }
    }
    client.send(&stream);
    let records = std::iter::repeat_with(|| client.record().expect("a reply"));
    let records: Vec<Vec<u8>> = records.take(12).collect();
    for round in 0..3 {
        let reply = |place, call: &Call<'_>| {
            let of = |record: &Vec<u8>| {
                rpc::read_reply::<Call<'_>>(xid(round, place), call.function(), record)
            };
            let reply = records.iter().find_map(of);
            reply.expect("a reply with this xid").expect("a result")
        };
        assert_eq!(reply(0, &begin).rv(), CkRv::OK);
        assert_eq!(reply(1, &long).rv(), CkRv::DATA_LEN_RANGE);
        assert_eq!(reply(2, &begin).rv(), CkRv::OK);
        let Reply::C_Digest(result) = reply(3, &short) else {
            panic!("another function's reply")
        };
        assert_eq!((result.rv, &result.data), (CkRv::OK, &expected));
    }
    let logged = "C_Digest refused with CKR_DATA_LEN_RANGE: its record has ";
    assert!(wait_until(PATIENCE, || daemon.log().contains(logged)));
}

/// Each in the form of its function; the arguments are not looked at.
#[test]
fn every_function_refuses_what_is_too_long_in_its_own_form() {
    let token = Token::new();
    let mut setup = setup(&token);
    limited(&mut setup);
    let daemon = setup.start();
    let mut client = ready(&daemon, b"null", Some(SlotId(0)));
    let record = |header: &[u32]| {
        let length = 4 * header.len() + TOO_MANY;
        let mut record = (length as u32 | 1 << 31).to_be_bytes().to_vec();
        record.extend(header.iter().flat_map(|word| word.to_be_bytes()));
        record.resize(4 + length, 0);
        record
    };
    let mut refusals = 0;
    for function in Function::ALL.iter().copied() {
        for flags in [0, 1] {
            let header = [7, 0, 2, 4, 4, function.number(), 0, 0, 0, 0, flags];
            client.send(&record(&header));
            let answer = client.record().expect("the connection lives on");
            match rpc::read_reply::<Call<'_>>(Xid(7), function, &answer).expect("its xid") {
                Ok(reply) => {
                    let expected = refused(function, CkRv::DATA_LEN_RANGE);
                    assert!(reply == expected, "{function:?}");
                    refusals += 1;
                }
                // GARBAGE_ARGS: no call of the function has that length.
                Err(error) => assert_eq!(error, rpc::ReplyError::NotExecuted(4), "{function:?}"),
            }
        }
    }
    assert_eq!(refusals, 2 * 68);
    // Other statuses are as for short ones.
    for (word, value, expected) in [
        (10, 2, rpc::ReplyError::NotExecuted(4)),
        (5, 200, rpc::ReplyError::NotExecuted(3)),
        (4, 3, rpc::ReplyError::NotExecuted(2)),
        (2, 3, rpc::ReplyError::Denied(0)),
    ] {
        let mut header = [7, 0, 2, 4, 4, 38, 0, 0, 0, 0, 0];
        header[word] = value;
        client.send(&record(&header));
        let answer = client.record().expect("the connection lives on");
        let reply = rpc::read_reply::<Call<'_>>(Xid(7), Function::C_Digest, &answer);
        assert_eq!(reply.expect("its xid").err(), Some(expected));
    }
    assert_eq!(client.call(Call::C_GetInfo()).rv(), CkRv::OK);
}

/// Room for a large result counts like a large record, in a call of few bytes.
#[test]
fn room_for_a_large_result_takes_of_the_budget() {
    let token = Token::new();
    let mut setup = setup(&token);
    limited(&mut setup);
    setup.processor += " record_memory = 33554432;";
    let daemon = setup.start();
    let mut client = ready(&daemon, b"null", Some(SlotId(0)));
    let random = |room| Call::C_GenerateRandom(SESSION, Room::Buffer(room));
    let sign = |room| Call::C_Sign(SESSION, Input::Bytes(b"data"), Room::Buffer(room));
    for (call, rv) in [
        (random(32 << 20), CkRv::OK),
        (random((32 << 20) + 1), CkRv::DEVICE_MEMORY),
        (sign(32 << 20), CkRv::OK),
        (sign((32 << 20) + 1), CkRv::DEVICE_MEMORY),
        (sign(u64::MAX), CkRv::DEVICE_MEMORY),
        (
            Call::C_FindObjects(SESSION, Room::Buffer(u64::MAX)),
            CkRv::OK,
        ),
        (random(32 << 20), CkRv::OK),
    ] {
        let name = call.function().name();
        assert_eq!(client.call(call).rv(), rv, "{name}");
    }
}
