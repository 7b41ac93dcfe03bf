//! Describes a service and its clients, for administrators and monitoring systems.
//!
//! The numbers come from memory that all workers of a service share, so a compromised one can falsify those of others,
//! too. Changes nothing.

use std::time::{Duration, UNIX_EPOCH};

use filter::log::Printable;

use super::{RunningService, TurnedAway};
use crate::administration::{ClientStatus, ServiceStatus};
use crate::controller::workers::{Serving, Workers};
use crate::metrics::exposition::ServiceNumbers;
use crate::metrics::{Histogram, Measured, Meters};

impl RunningService {
    /// The state of this service and its clients.
    pub fn status(&self, workers: &Workers) -> ServiceStatus {
        let mut clients: Vec<ClientStatus> = workers
            .serving(self.position)
            .map(|serving| self.client_status(&serving))
            .collect();
        clients.sort_unstable_by_key(|client| client.id);
        let idle = self.admission.idle_workers();
        ServiceStatus {
            name: self.settings.name.clone(),
            workers: idle + clients.len(),
            max_workers: self.settings.workload.max_workers,
            idle,
            modules: self
                .policy
                .rules
                .modules
                .iter()
                .map(|module| String::from_utf8_lossy(&module.alias_text).into_owned())
                .collect(),
            clients,
        }
    }

    /// The numbers for a monitoring system.
    pub fn numbers(&self) -> ServiceNumbers {
        let TurnedAway {
            over_limit,
            to_make_room,
            too_slow,
            by_tls,
            by_profile,
            by_proxy,
        } = self.turned_away;
        let empty = || Histogram {
            counts: Vec::new(),
            sum: Duration::ZERO,
        };
        let histogram = |measured| self.meters.map_or_else(empty, |it| it.histogram(measured));
        ServiceNumbers {
            name: self.settings.name.clone(),
            max_workers: self.settings.workload.max_workers,
            workers: self.admission.states(),
            connections: self.connections,
            turned_away: vec![
                ("max_connections_per_peer", over_limit),
                ("make_room", to_make_room),
                ("first_call_timeout", too_slow),
                ("tls", by_tls),
                ("profile", by_profile),
                ("proxy_protocol", by_proxy),
            ],
            refusals: self
                .meters
                .into_iter()
                .flat_map(Meters::refusals)
                .map(|(rule, count)| (rule.map(|(option, line)| (option, line.to_string())), count))
                .collect(),
            calls: self.meters.into_iter().flat_map(Meters::calls).collect(),
            whole: histogram(Measured::Whole),
            module: histogram(Measured::Module),
        }
    }

    fn client_status(&self, serving: &Serving<'_>) -> ClientStatus {
        let since = serving.since.duration_since(UNIX_EPOCH);
        let mut status = ClientStatus {
            id: serving.id.0,
            pid: serving.pid.as_raw(),
            peer: serving.client.to_owned(),
            user: serving.user.to_owned(),
            profile: String::new(),
            since: since.map_or(0, |since| since.as_secs()),
            module: String::new(),
            calls: 0,
            in_flight: 0,
            last_call: String::new(),
            idle: 0.0,
        };
        let Some(place) = self.places.of(&serving.id) else {
            return status;
        };
        let done = self.activities.of(place);
        status.calls = done.calls;
        status.in_flight = done.in_flight;
        if let Some((function, age)) = done.last {
            status.last_call = function.name().to_owned();
            status.idle = age.as_secs_f64();
        }
        let profile = self.profile(place);
        status.profile = self.profile_name(profile);
        let own = profile.and_then(|profile| serving.profiles.get(profile)?.as_deref());
        let rules = own.unwrap_or(serving.rules);
        let loaded = done.module.and_then(|at| rules.modules.get(at));
        status.module = loaded.map_or_else(String::new, |module| {
            Printable(&module.alias_text).to_string()
        });
        status
    }

    /// Returns the position of the profile that the client of the worker in this place has.
    pub(super) fn profile(&self, place: usize) -> Option<usize> {
        self.usage.as_ref().and_then(|usage| usage.profile(place))
    }

    /// Returns the name of a profile; empty without one.
    pub(super) fn profile_name(&self, profile: Option<usize>) -> String {
        let profiles = &self.settings.processor.profiles;
        let named = profile.and_then(|profile| profiles.get(profile));
        named.map_or_else(String::new, |profile| profile.name.value.clone())
    }
}
