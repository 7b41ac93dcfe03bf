//! Runs the copies of the program that measure: the bare pair of server and client, and the program that connects to a
//! daemon.
//!
//! Each reads lines with a task and a count and answers with nanoseconds, except for the server, which serves the bare
//! client.

use std::io::{BufRead, Read, Write};
use std::time::Instant;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use openssl::ssl::{Ssl, SslContext, SslFiletype, SslMethod, SslStream, SslVerifyMode};
use socket2::{Domain, SockAddr, Socket, Type};
use xdr::rpc::{self, Xid};
use xdr::version3::Call;
use xdr::{Architecture, Flags, Function, SlotId};

use super::support::certificates::certificate;
use super::{DIGEST, ENCRYPT, Exchange, MEBIBYTE, Outcome, PROLOGUE, SIGN};

/// What is measured, once.
pub trait Tasks {
    /// Exchanges messages of these sizes.
    fn exchange(&mut self, exchange: Exchange) -> Outcome<()>;
    fn connect(&mut self) -> Outcome<()>;
}

pub fn serve_tasks(tasks: &mut dyn Tasks) -> Outcome<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (task, count) = line.split_once(' ').ok_or("TASK COUNT")?;
        let count: u32 = count.parse()?;
        let start = Instant::now();
        for _ in 0..count {
            match task {
                "sign" => tasks.exchange(SIGN)?,
                "digest" => tasks.exchange(DIGEST)?,
                "encrypt" => tasks.exchange(ENCRYPT)?,
                "connect" => tasks.connect()?,
                _ => {}
            }
        }
        println!("{}", start.elapsed().as_nanos());
    }
    Ok(())
}

pub fn address(endpoint: &str) -> Outcome<(Domain, SockAddr)> {
    let endpoint = endpoint.trim_start_matches("tls:");
    if endpoint.starts_with('/') {
        return Ok((Domain::UNIX, SockAddr::unix(endpoint)?));
    }
    let address: std::net::SocketAddr = endpoint.parse()?;
    Ok((Domain::for_address(address), address.into()))
}

/// The bare transport, with or without OpenSSL on it.
pub enum Raw {
    Plain(Socket),
    Tls(Box<SslStream<Socket>>),
}

impl Read for Raw {
    fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Raw::Plain(socket) => socket.read(space),
            Raw::Tls(stream) => stream.read(space),
        }
    }
}

impl Write for Raw {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Raw::Plain(socket) => socket.write(bytes),
            Raw::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// OpenSSL with the certificate of one side.
pub fn context(method: SslMethod, side: &str) -> Outcome<SslContext> {
    let mut context = SslContext::builder(method)?;
    context.set_ca_file(certificate("ca.pem"))?;
    context.set_certificate_chain_file(certificate(&format!("{side}.pem")))?;
    context.set_private_key_file(certificate(&format!("{side}.key")), SslFiletype::PEM)?;
    context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    context.set_num_tickets(0)?;
    context.set_read_ahead(true);
    Ok(context.build())
}

/// Answers requests of any length: the first word says how long the request is, the second how
/// long the answer. A process for each client.
pub fn raw_server(endpoint: &str) -> Outcome<()> {
    let tls = match endpoint.starts_with("tls:") {
        true => Some(context(SslMethod::tls_server(), "server")?),
        false => None,
    };
    let (domain, address) = address(endpoint)?;
    let listener = Socket::new(domain, Type::STREAM, None)?;
    listener.set_reuse_address(true)?;
    listener.bind(&address)?;
    listener.listen(128)?;
    loop {
        let (client, _) = listener.accept()?;
        bindings::sys::fork_child(client, &[], |client| {
            i32::from(raw_serve(client, tls.as_ref()).is_err())
        })?;
        while !matches!(
            waitpid(None, Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::StillAlive) | Err(_)
        ) {}
    }
}

fn raw_serve(client: Socket, tls: Option<&SslContext>) -> Outcome<()> {
    let _ = client.set_tcp_nodelay(true);
    let mut from = match tls {
        None => Raw::Plain(client),
        Some(context) => Raw::Tls(Box::new(Ssl::new(context)?.accept(client)?)),
    };
    let mut request = vec![0; 2 * MEBIBYTE];
    let answer = vec![0; 2 * MEBIBYTE];
    loop {
        let mut received = from.read(&mut request)?;
        if received == 0 {
            return Ok(());
        }
        let word = |at: usize| {
            request[at..at + 4]
                .iter()
                .fold(0, |n, b| n << 8 | usize::from(*b))
        };
        let (sent, wanted) = (word(0), word(4));
        while received < sent {
            received += from.read(&mut request[received..])?;
        }
        from.write_all(&answer[..wanted])?;
    }
}

pub struct RawClient {
    endpoint: String,
    tls: Option<SslContext>,
    socket: Raw,
    buffer: Vec<u8>,
}

impl RawClient {
    pub fn new(endpoint: &str) -> RawClient {
        let tls = RawClient::context(endpoint).expect("the certificates are made");
        let socket = RawClient::open(endpoint, tls.as_ref()).expect("the raw server listens");
        RawClient {
            endpoint: endpoint.to_owned(),
            tls,
            socket,
            buffer: vec![0; 2 * MEBIBYTE],
        }
    }

    fn context(endpoint: &str) -> Outcome<Option<SslContext>> {
        let is_tls = endpoint.starts_with("tls:");
        is_tls
            .then(|| context(SslMethod::tls_client(), "client"))
            .transpose()
    }

    pub fn open(endpoint: &str, tls: Option<&SslContext>) -> Outcome<Raw> {
        let (domain, address) = address(endpoint)?;
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.connect(&address)?;
        let _ = socket.set_tcp_nodelay(true);
        Ok(match tls {
            None => Raw::Plain(socket),
            Some(context) => Raw::Tls(Box::new(Ssl::new(context)?.connect(socket)?)),
        })
    }

    fn send_and_receive(&mut self, exchange: Exchange) -> Outcome<()> {
        let Exchange { sent, received } = exchange;
        self.buffer[..4].copy_from_slice(&u32::try_from(sent)?.to_be_bytes());
        self.buffer[4..8].copy_from_slice(&u32::try_from(received)?.to_be_bytes());
        self.socket.write_all(&self.buffer[..sent])?;
        let mut got = 0;
        while got < received {
            got += self.socket.read(&mut self.buffer[got..received])?;
        }
        Ok(())
    }
}

impl Tasks for RawClient {
    fn exchange(&mut self, exchange: Exchange) -> Outcome<()> {
        self.send_and_receive(exchange)
    }

    fn connect(&mut self) -> Outcome<()> {
        self.socket = RawClient::open(&self.endpoint, self.tls.as_ref())?;
        for _ in 0..PROLOGUE {
            self.send_and_receive(Exchange {
                sent: 48,
                received: 36,
            })?;
        }
        Ok(())
    }
}

/// Connects to a daemon, at the address in `CONNECT_TO`.
pub struct Connector {
    endpoint: String,
    tls: Option<SslContext>,
}

impl Connector {
    pub fn new() -> Outcome<Connector> {
        let endpoint = std::env::var("CONNECT_TO")?;
        let tls = RawClient::context(&endpoint)?;
        Ok(Connector { endpoint, tls })
    }
}

impl Tasks for Connector {
    fn exchange(&mut self, _: Exchange) -> Outcome<()> {
        Err("it only connects".into())
    }

    /// Through the daemon's socket, not the library: the original's connects once in a process.
    fn connect(&mut self) -> Outcome<()> {
        let mut socket = RawClient::open(&self.endpoint, self.tls.as_ref())?;
        let (mut request, mut received) = (Vec::new(), [0; 256]);
        for call in [
            Call::C_SetupArch(Architecture::host()),
            Call::C_LoadModule(b"null"),
            Call::C_Initialize(),
            Call::C_OpenSession(SlotId(0), Flags(6)),
            Call::C_Finalize(),
        ] {
            let request = rpc::write_call(Xid(1), &call, false, &mut request)?.to_vec();
            socket.write_all(&request)?;
            let count = socket.read(&mut received)?;
            let reply = rpc::read_reply::<Call<'_>>(Xid(1), call.function(), &received[4..count]);
            let reply = reply.ok_or("another call's reply")??;
            if !reply.rv().is_ok() && call.function() != Function::C_SetupArch {
                return Err(format!("{reply:?}").into());
            }
        }
        Ok(())
    }
}
