//! Gives a monitoring system the daemon's metrics over HTTP, at a loopback address.
//!
//! Any local user can ask; the answer contains no names of clients. Answers `GET /metrics`, refuses everything else,
//! and ends each connection after its answer. Never blocks.

use std::io;

use super::conversation::Room;
use super::event::{Source, Watch};
use crate::metrics::exposition::MEDIA_TYPE;
use crate::sockets::Listener;

/// Upper bound on the bytes of a request.
const LONGEST_REQUEST: usize = 8192;

/// Upper bound on the headers of a request.
const MOST_HEADERS: usize = 64;

/// The socket's name in the log.
const NAME: &str = "metrics";

/// The media type of other answers.
const PLAIN: &str = "text/plain; charset=utf-8";

/// The socket and its connections. For each connection: whether its only request has come.
pub struct Scrapers(Room<bool>);

impl Scrapers {
    /// Watches a socket.
    pub fn new(listener: Listener, watch: &mut Watch) -> io::Result<Scrapers> {
        let sources = (Source::MetricsSocket, Source::Scraper as fn(usize) -> _);
        Ok(Scrapers(Room::new(listener, NAME, sources, watch)?))
    }

    /// The socket.
    pub fn listener(&self) -> Option<&Listener> {
        self.0.listener()
    }

    /// Accepts the waiting connections.
    pub fn accept(&mut self, watch: &mut Watch) {
        self.0.accept(|_| Some(false), watch);
    }

    /// Handles an event of a connection. `numbers` returns the text, if that is requested.
    pub fn serve(&mut self, number: usize, numbers: impl FnOnce() -> String, watch: &mut Watch) {
        let source = Source::Scraper(number);
        let Some((conversation, is_asked)) = self.0.get_mut(number) else {
            return;
        };
        let mut is_open = conversation.go_on(end_of_head, LONGEST_REQUEST).is_ok();
        if !*is_asked {
            if let Some(head) = conversation.question(end_of_head) {
                *is_asked = true;
                let answer = answer(&head, numbers);
                is_open = conversation.answer(answer, source, watch).is_ok();
            }
        }
        if !is_open || (*is_asked && conversation.is_answered()) {
            self.0.end(number, watch);
        }
    }

    /// Leaves the socket to the daemon that has taken it over.
    pub fn stop_listening(&mut self, watch: &mut Watch) {
        self.0.stop_listening(watch);
    }
}

/// Returns where the head of a request ends.
fn end_of_head(bytes: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    let start = bytes.windows(END.len()).position(|window| window == END)?;
    Some(start + END.len())
}

fn answer(head: &[u8], numbers: impl FnOnce() -> String) -> Vec<u8> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let is_complete = request.parse(head).is_ok_and(|status| status.is_complete());
    let path = request.path.and_then(|path| path.split('?').next());
    let (status, media_type, body) = match (is_complete, request.method, path) {
        (true, Some("GET"), Some("/metrics")) => ("200 OK", MEDIA_TYPE, numbers()),
        (true, Some("GET"), _) => ("404 Not Found", PLAIN, "only /metrics is here\n".to_owned()),
        (true, ..) => (
            "405 Method Not Allowed",
            PLAIN,
            "only GET is served\n".to_owned(),
        ),
        (false, ..) => ("400 Bad Request", PLAIN, String::new()),
    };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_numbers_are_served() {
        for (head, expected) in [
            (
                "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                "HTTP/1.1 200 OK\r\n",
            ),
            ("GET /metrics?x=1 HTTP/1.0\r\n\r\n", "HTTP/1.1 200 "),
            ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 "),
            ("POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
            ("\u{1}\r\n\r\n", "HTTP/1.1 400 "),
            ("GET  \r\n\r\n", "HTTP/1.1 400 "),
        ] {
            assert_eq!(end_of_head(head.as_bytes()), Some(head.len()));
            let text = answer(head.as_bytes(), || "a 1\n".to_owned());
            let text = String::from_utf8(text).unwrap();
            assert!(text.starts_with(expected), "{head}: {text}");
            assert_eq!(
                text.ends_with("\r\n\r\na 1\n"),
                expected.contains("200"),
                "{text}"
            );
        }
        assert_eq!(end_of_head(b"GET /metrics HTTP/1.1\r\n"), None);
    }
}
