//! Reports the daemon's state to the service manager (systemd): ready, reloading, draining, alive.
//!
//! The controller says what to report; it goes to the socket that NOTIFY_SOCKET names, as sd_notify(3) describes.
//! Without that variable nothing is sent. Sockets that the service manager passes are taken in `sockets`.

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use sd_notify::NotifyState;

/// The service manager, if there is one.
pub struct ServiceManager {
    /// How often it wants to hear that the daemon is alive; `None` if it does not watch that.
    interval: Option<Duration>,
    told_at: Instant,
    /// Another process is the service now, and speaks for it.
    is_replaced: bool,
}

impl ServiceManager {
    /// Reads what the service manager wants from the environment (WATCHDOG_USEC). It hears twice as often
    /// as it wants, as sd_watchdog_enabled(3) advises.
    pub fn new(now: Instant) -> ServiceManager {
        ServiceManager {
            interval: sd_notify::watchdog_enabled().map(|interval| interval / 2),
            told_at: now,
            is_replaced: false,
        }
    }

    /// Another process is the service from now on. Nothing more is told.
    pub fn replaced_by(&mut self, process: Pid) {
        self.tell(&[NotifyState::Custom(&format!("MAINPID={process}"))]);
        self.is_replaced = true;
        self.interval = None;
    }

    /// Clients are accepted.
    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// Rules and keys are loaded again; [`ServiceManager::ready`] ends it.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => log::debug!("cannot get the time for the service manager: {error}"),
        }
    }

    /// The daemon ends, as soon as its clients have left.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// How long the controller may sleep before [`ServiceManager::alive`] has to be called.
    pub fn next_wake(&self, now: Instant) -> Option<Duration> {
        let interval = self.interval?;
        Some(interval.saturating_sub(now.saturating_duration_since(self.told_at)))
    }

    /// The controller's loop turns.
    pub fn alive(&mut self, now: Instant) {
        if self.next_wake(now).is_some_and(|left| left.is_zero()) {
            self.told_at = now;
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// A service manager that cannot be told is no reason to serve nobody.
    fn tell(&self, state: &[NotifyState<'_>]) {
        if self.is_replaced {
            return;
        }
        if let Err(error) = sd_notify::notify(state) {
            log::warn!("cannot notify the service manager: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_told_in_half_its_interval() {
        let start = Instant::now();
        let mut manager = ServiceManager {
            interval: Some(Duration::from_secs(5)),
            told_at: start,
            is_replaced: false,
        };
        let left = |manager: &ServiceManager, seconds| {
            manager.next_wake(start + Duration::from_secs(seconds))
        };
        assert_eq!(left(&manager, 1), Some(Duration::from_secs(4)));
        manager.alive(start + Duration::from_secs(4));
        assert_eq!(left(&manager, 4), Some(Duration::from_secs(1)));
        manager.alive(start + Duration::from_secs(6));
        assert_eq!(left(&manager, 6), Some(Duration::from_secs(5)));
        manager.interval = None;
        assert_eq!(left(&manager, 60), None);
    }
}
