//! Names what the controller's event loop watches, so that no other part handles bare mio tokens.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::admission::WorkerId;

/// Something that wakes the controller.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Source {
    /// The signal descriptor.
    Signals,
    /// A listening socket of a service: both by their positions at start.
    Listener {
        /// Which service.
        service: usize,
        /// Which of its listeners.
        listener: usize,
    },
    /// The channel of a worker.
    Worker(WorkerId),
}

/// The sources that are being watched, edge-triggered: each event is reported once.
pub struct Watch {
    poll: Poll,
    sources: HashMap<Token, Source>,
    tokens: HashMap<Source, Token>,
    next: usize,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> io::Result<Watch> {
        Ok(Watch {
            poll: Poll::new()?,
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
        let Some(token) = self.tokens.get(&source) else {
            return Ok(());
        };
        let raw = descriptor.as_fd().as_raw_fd();
        let registry = self.poll.registry();
        registry.reregister(&mut SourceFd(&raw), *token, Interest::READABLE)
    }

    /// Stops watching a source.
    pub fn remove(&mut self, source: Source, descriptor: &impl AsFd) {
        if let Some(token) = self.tokens.remove(&source) {
            self.sources.remove(&token);
            let raw = descriptor.as_fd().as_raw_fd();
            // Closing the descriptor takes it out of the poll as well.
            let _ = self.poll.registry().deregister(&mut SourceFd(&raw));
        }
    }

    /// Waits for events, at most this long. A signal handler may end the wait early.
    pub fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            other => other,
        }
    }

    /// The sources of these events. One that was removed meanwhile has none.
    pub fn sources(&self, events: &Events) -> Vec<Source> {
        let source = |event: &mio::event::Event| self.sources.get(&event.token()).copied();
        events.iter().filter_map(source).collect()
    }
}
