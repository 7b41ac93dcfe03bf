//! Watches descriptors for the controller's event loop, and names the sources that have become ready.
//!
//! No other part of the controller handles mio's tokens.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::admission::WorkerId;

/// Upper bound on the events that are taken from the kernel at once.
const CAPACITY: usize = 256;

/// Something that wakes the controller.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// The signal descriptor.
    Signals,
    /// Changes in the directories of filter files.
    Edits,
    /// The control socket.
    ControlSocket,
    /// An administrator's connection.
    Administrator(usize),
    /// The socket of monitoring systems.
    MetricsSocket,
    /// A monitoring system's connection.
    Scraper(usize),
    /// A listening socket of a service: both by their positions at start.
    Listener {
        /// Which service.
        service: usize,
        /// Which of its listeners.
        listener: usize,
    },
    /// Clients that have gone.
    Departures,
    /// The channel of the auditor.
    Auditor,
    /// The channel of a worker.
    Worker(WorkerId),
}

/// The sources that are being watched, edge-triggered: each event is reported once.
pub struct Watch {
    poll: Poll,
    events: Events,
    sources: HashMap<Token, Source>,
    tokens: HashMap<Source, Token>,
    next: usize,
}

impl Watch {
    /// Creates an empty set of sources.
    pub fn new() -> io::Result<Watch> {
        Ok(Watch {
            poll: Poll::new()?,
            events: Events::with_capacity(CAPACITY),
            sources: HashMap::new(),
            tokens: HashMap::new(),
            next: 0,
        })
    }

    /// Watches a descriptor for bytes or connections to read.
    pub fn add(&mut self, source: Source, descriptor: &impl AsFd) -> io::Result<()> {
        let token = Token(self.next);
        let raw = descriptor.as_fd().as_raw_fd();
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&raw), token, Interest::READABLE)?;
        self.next += 1;
        self.sources.insert(token, source);
        self.tokens.insert(source, token);
        Ok(())
    }

    /// Reports a source again if it still has something to read.
    pub fn again(&self, source: Source, descriptor: &impl AsFd) -> io::Result<()> {
        self.again_for(source, descriptor, Interest::READABLE)
    }

    /// As [`Watch::again`], and also when there is room to write.
    pub fn again_with_room(&self, source: Source, descriptor: &impl AsFd) -> io::Result<()> {
        self.again_for(source, descriptor, Interest::READABLE | Interest::WRITABLE)
    }

    fn again_for(
        &self,
        source: Source,
        descriptor: &impl AsFd,
        interest: Interest,
    ) -> io::Result<()> {
        let Some(token) = self.tokens.get(&source) else {
            return Ok(());
        };
        let raw = descriptor.as_fd().as_raw_fd();
        let registry = self.poll.registry();
        registry.reregister(&mut SourceFd(&raw), *token, interest)
    }

    /// Stops watching a source.
    pub fn remove(&mut self, source: Source, descriptor: &impl AsFd) {
        if let Some(token) = self.tokens.remove(&source) {
            self.sources.remove(&token);
            let raw = descriptor.as_fd().as_raw_fd();
            // Closing the descriptor removes it from the poll as well.
            let _ = self.poll.registry().deregister(&mut SourceFd(&raw));
        }
    }

    /// Waits at most this long for sources that have something to read. A signal handler may end the
    /// wait early.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Vec<Source>> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Vec::new()),
            other => other?,
        }
        let source = |event: &mio::event::Event| self.sources.get(&event.token()).copied();
        Ok(self.events.iter().filter_map(source).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn reports_a_source_once_for_what_arrives_and_again_when_asked() {
        let mut watch = Watch::new().unwrap();
        let (reader, mut writer) = UnixStream::pair().unwrap();
        let source = Source::Worker(WorkerId(7));
        watch.add(source, &reader).unwrap();
        let soon = Some(Duration::from_millis(1));
        assert_eq!(watch.wait(soon).unwrap(), []);
        writer.write_all(b"x").unwrap();
        assert_eq!(watch.wait(None).unwrap(), [source]);
        assert_eq!(watch.wait(soon).unwrap(), []);
        watch.again(source, &reader).unwrap();
        assert_eq!(watch.wait(None).unwrap(), [source]);
        watch.remove(source, &reader);
        writer.write_all(b"x").unwrap();
        assert_eq!(watch.wait(soon).unwrap(), []);
    }
}
