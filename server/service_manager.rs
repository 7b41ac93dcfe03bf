//! Reports the daemon's state to the service manager (systemd): ready, reloading, draining, alive.
//!
//! The controller says what to report; it goes to the socket that NOTIFY_SOCKET names, as sd_notify(3) describes.
//! Without that variable nothing is sent. Sockets that the service manager passes are taken in `sockets`.

use std::time::{Duration, Instant};

use nix::unistd::Pid;
use sd_notify::NotifyState;

/// Sends notifications to the service manager, if there is one.
pub struct ServiceManager {
    /// The interval at which it is told that the daemon is alive; `None` if it does not watch that.
    interval: Option<Duration>,
    told_at: Instant,
    /// Whether another process has become the service's main process, and notifies from now on.
    is_replaced: bool,
}

impl ServiceManager {
    /// Reads the interval of the service manager's watchdog from the environment (WATCHDOG_USEC). It is notified at
    /// half of that interval, as sd_watchdog_enabled(3) advises.
    pub fn new(now: Instant) -> ServiceManager {
        ServiceManager {
            interval: sd_notify::watchdog_enabled().map(|interval| interval / 2),
            told_at: now,
            is_replaced: false,
        }
    }

    /// Reports that another process is the service's main process from now on. Later calls report nothing.
    pub fn replaced_by(&mut self, process: Pid) {
        self.tell(&[NotifyState::Custom(&format!("MAINPID={process}"))]);
        self.is_replaced = true;
        self.interval = None;
    }

    /// Reports that clients are accepted.
    pub fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// Reports that rules and keys are being loaded again, until [`ServiceManager::ready`] is called.
    pub fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => log::debug!("cannot get the time for the service manager: {error}"),
        }
    }

    /// Reports that the daemon ends as soon as its clients have left.
    pub fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// Returns how long the controller may sleep before [`ServiceManager::alive`] has to be called.
    pub fn next_wake(&self, now: Instant) -> Option<Duration> {
        let interval = self.interval?;
        Some(interval.saturating_sub(now.saturating_duration_since(self.told_at)))
    }

    /// Reports that the daemon is alive, if that is due. Called in each round of the controller's loop.
    pub fn alive(&mut self, now: Instant) {
        if self.next_wake(now).is_some_and(|left| left.is_zero()) {
            self.told_at = now;
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// Sends a notification. A failure is only logged, because clients can be served nevertheless.
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
