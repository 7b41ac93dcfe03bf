//! Carries out the requests of administrators, and provides the daemon's numbers for monitoring systems.
//!
//! `administrators` and `scrapers` keep the connections and decode the requests. Requests that a signal can make as
//! well are carried out by the controller itself.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Instant, UNIX_EPOCH};

use nix::unistd::Pid;

use crate::administration::{Reply, Request, Status};
use crate::audit::records::Told;
use crate::counts::Label;
use crate::logging::{Severity, log};
use crate::metrics::exposition::{self, Numbers};

use super::administrators::{Administrators, Asked};
use super::admission::WorkerId;
use super::scrapers::Scrapers;
use super::service::RunningService;
use super::workers::End;
use super::{Controller, LONGEST_DRAIN, Turn, service_of};
use crate::sockets::Listener;

impl Controller {
    /// Carries out the requests of an administrator.
    pub(super) fn serve_administrator(&mut self, number: usize) -> Turn {
        while let Some(Asked { request, name }) = self.next_request(number) {
            let (reply, turn) = match request {
                Ok(request) => {
                    if !request.only_looks() {
                        log(
                            Severity::Notice,
                            format_args!("administrator {name} asks: {request:?}"),
                        );
                    }
                    self.administer(number, request)
                }
                Err(error) => (Some(Reply::Failed(error)), Turn::GoOn),
            };
            if let Some(reply) = reply {
                self.answer(number, &reply);
            }
            if turn == Turn::Stop {
                return turn;
            }
        }
        Turn::GoOn
    }

    fn next_request(&mut self, administrator: usize) -> Option<Asked> {
        let administrators = self.administrators.as_mut()?;
        administrators.take(administrator, &mut self.shared.watch)
    }

    fn answer(&mut self, administrator: usize, reply: &Reply) {
        let Some(administrators) = &mut self.administrators else {
            return;
        };
        administrators.answer(administrator, reply, &mut self.shared.watch);
        let enclosed = std::mem::take(&mut self.enclosed);
        if !enclosed.is_empty() {
            let enclosed = enclosed.iter().map(AsFd::as_fd);
            administrators.pass(administrator, enclosed, &mut self.shared.watch);
        }
    }

    /// Duplicates the listening sockets. The new daemon identifies them by their addresses, not by their order.
    fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let copies = self.listeners();
        copies
            .map(|listener| listener.as_fd().try_clone_to_owned())
            .collect()
    }

    /// The listening sockets of the services and of the daemon itself.
    fn listeners(&self) -> impl Iterator<Item = &Listener> {
        let metrics = self.scrapers.as_ref().and_then(Scrapers::listener);
        let own = self.administrators.as_ref();
        let own = own.and_then(Administrators::listener);
        let listeners = self.services.iter().flat_map(RunningService::listeners);
        listeners.chain(metrics).chain(own)
    }

    /// Encloses duplicates of the descriptors of the services' counts; returns their labels.
    fn hand_counts_over(&mut self) -> io::Result<Vec<Label>> {
        let counts = self.services.iter().flat_map(RunningService::counts);
        let copies = counts.map(|(label, memory)| Ok((label, memory.try_clone_to_owned()?)));
        let (labels, enclosed) = copies.collect::<io::Result<(Vec<_>, Vec<_>)>>()?;
        self.enclosed = enclosed;
        Ok(labels)
    }

    /// Carries out a request. There is no reply if it comes later.
    fn administer(&mut self, administrator: usize, request: Request) -> (Option<Reply>, Turn) {
        let reply = match request {
            Request::Status => Reply::Status(self.status()),
            Request::Metrics => Reply::Metrics(exposition::text(self.numbers())),
            Request::Reload => match self.reload() {
                Ok(()) => Reply::Done,
                Err(errors) => Reply::Failed(errors),
            },
            Request::Disconnect(number) => {
                let worker = WorkerId(number);
                let workers = &self.shared.workers;
                let service = service_of(&mut self.services, workers, worker);
                match service.is_some_and(|service| service.disconnect(worker, workers)) {
                    true => Reply::Done,
                    false => Reply::Failed(format!("there is no client {number}")),
                }
            }
            Request::Drain => {
                self.drain();
                Reply::Done
            }
            Request::Stop => return (Some(Reply::Done), Turn::Stop),
            Request::Upgrade => match self.upgrade(administrator) {
                Ok(()) => return (None, Turn::GoOn),
                Err(reason) => Reply::Failed(reason),
            },
            Request::Probe(service) => match self.probe(service) {
                Ok(socket) => {
                    self.enclosed = vec![socket];
                    Reply::HandingOver(1)
                }
                Err(reason) => Reply::Failed(reason),
            },
            Request::HandOver if self.drained_at.is_some() => {
                Reply::Failed("the daemon drains".to_owned())
            }
            Request::HandOver => {
                self.handed_to = Some(administrator);
                match self.sockets() {
                    Ok(sockets) => {
                        self.enclosed = sockets;
                        Reply::HandingOver(self.enclosed.len())
                    }
                    Err(error) => Reply::Failed(error.to_string()),
                }
            }
            Request::Counts if self.handed_to == Some(administrator) => {
                match self.hand_counts_over() {
                    Ok(labels) => Reply::Counts(labels),
                    Err(error) => Reply::Failed(error.to_string()),
                }
            }
            Request::ForeignFiles if self.handed_to == Some(administrator) => {
                let foreign = self.listeners().filter_map(Listener::foreign_file);
                Reply::Files(foreign.collect())
            }
            Request::HandedOver if self.handed_to == Some(administrator) => {
                self.be_replaced(administrator);
                Reply::Done
            }
            Request::Counts | Request::ForeignFiles | Request::HandedOver => {
                Reply::Failed("this connection has no copies of the sockets".to_owned())
            }
        };
        (Some(reply), Turn::GoOn)
    }

    /// Forks a worker that serves only a readiness check, and returns the socket to it.
    fn probe(&mut self, service: usize) -> Result<OwnedFd, String> {
        let service = self.services.get_mut(service);
        let service = service.ok_or("there is no such service")?;
        let socket = service.probe(&mut self.shared);
        socket.map_err(|error| format!("cannot start a worker: {error}"))
    }

    /// Starts the new daemon. The administrator gets a reply when it serves, or has failed.
    fn upgrade(&mut self, administrator: usize) -> Result<(), String> {
        if std::process::id() == 1 {
            return Err("process 1 cannot be replaced: its container ends with it".to_owned());
        }
        if self.drained_at.is_some() || self.successor.is_some() {
            return Err("the daemon is draining, or already being replaced".to_owned());
        }
        let process = self.origin.start_successor();
        let process = process.map_err(|error| format!("cannot start the new daemon: {error}"))?;
        self.successor = Some((process, administrator));
        Ok(())
    }

    /// Leaves new clients to another daemon. This one serves the clients that it has until they leave.
    fn be_replaced(&mut self, administrator: usize) {
        let administrators = self.administrators.as_ref();
        let process = administrators.and_then(|known| known.process(administrator));
        let process = process.unwrap_or(Pid::from_raw(0));
        log(
            Severity::Notice,
            format_args!("process {process} has taken over; clients are served until they leave"),
        );
        self.service_manager.replaced_by(process);
        self.tell_auditor(&Told::MoveAside);
        for service in &mut self.services {
            service.leave_listeners();
        }
        if let Some(administrators) = &mut self.administrators {
            administrators.stop_listening(&mut self.shared.watch);
        }
        if let Some(scrapers) = &mut self.scrapers {
            scrapers.stop_listening(&mut self.shared.watch);
        }
        self.drain_until(Instant::now() + LONGEST_DRAIN);
        if let Some((_, waiting)) = self.successor.take() {
            self.answer(waiting, &Reply::Done);
        }
    }

    /// Handles the end of a child that is not a worker.
    pub(super) fn other_ended(&mut self, process: Pid, end: End) {
        let Some((_, waiting)) = self.successor.take_if(|(started, _)| *started == process) else {
            return;
        };
        let reason = format!(
            "the new daemon terminated {end}; its error message is in this daemon's standard error"
        );
        log(Severity::Err, format_args!("upgrade failed: {reason}"));
        self.answer(waiting, &Reply::Failed(reason));
    }

    pub(super) fn serve_scraper(&mut self, number: usize) {
        // Taken out, because all of `self` is needed for the numbers.
        if let Some(mut scrapers) = self.scrapers.take() {
            let numbers = self.numbers();
            scrapers.serve(number, || exposition::text(numbers), &mut self.shared.watch);
            self.scrapers = Some(scrapers);
        }
    }

    fn numbers(&self) -> Numbers {
        let services = self.services.iter();
        Numbers {
            since: self.since,
            drains: self.drained_at.is_some(),
            services: services.map(RunningService::numbers).collect(),
        }
    }

    fn status(&self) -> Status {
        let since = self.since.duration_since(UNIX_EPOCH);
        let services = self.services.iter();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            since: since.map_or(0, |since| since.as_secs()),
            drains: self.drained_at.is_some(),
            services: services
                .map(|service| service.status(&self.shared.workers))
                .collect(),
        }
    }
}
