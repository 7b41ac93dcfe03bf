//! Tests what a peer can make OpenSSL write.

use std::io::Read;
use std::thread;

use openssl::ssl::{Ssl, SslMethod, SslVersion};
use socket2::{Domain, Socket, Type};

use super::*;
use crate::halves::tests::context;
use crate::socket::TimedSocket;
use crate::tls::{self, LONGEST_FRAGMENT};

#[test]
fn answers_that_the_peer_does_not_take_are_bounded() {
    let (near, far) = Socket::pair(Domain::UNIX, Type::STREAM, None).unwrap();
    let soon = || Deadline::after(Duration::from_secs(20));
    let connecting = thread::spawn(move || {
        let ssl = Ssl::new(&context(SslMethod::tls_client(), SslVersion::TLS1_3)).unwrap();
        ssl.connect(Pipe::new(TimedSocket::new(far), soon()))
            .ok()
            .unwrap()
    });
    let ssl = Ssl::new(&context(SslMethod::tls_server(), SslVersion::TLS1_3)).unwrap();
    let accepted = ssl
        .accept(Pipe::new(TimedSocket::new(near), soon()))
        .ok()
        .unwrap();
    let (mut receiver, _sender, shared) =
        split(accepted, LONGEST_FRAGMENT, tls::default_context).unwrap();
    let mut peer = connecting.join().unwrap();
    // What OpenSSL would write, one after the other: first the socket takes it. The peer takes less than it causes.
    let mut taken = [0; 900];
    let mut answered = 0;
    let failure = loop {
        let mut stream = locked(&shared.stream);
        let written = stream.as_mut().unwrap().get_mut().written();
        written.extend_from_slice(&[0; 1000]);
        drop(stream);
        answered += 1000;
        assert!(answered < 64 << 20, "that is more than the socket holds");
        peer.ssl_write(b"asks").unwrap();
        match receiver.receive(&mut [0; 4], Some(soon())) {
            Ok(_) => assert!(locked(&shared.sending).records.len() < 2 * MOST_ANSWERS),
            Err(failure) => break failure,
        }
        let mut socket = &**peer.get_ref().socket().unwrap();
        socket.read_exact(&mut taken).unwrap();
    };
    assert!(
        failure.to_string().contains("does not take them"),
        "{failure}"
    );
}
