//! Writes the state of the daemon in Prometheus' text format (OpenMetrics 1.0).
//!
//! The controller gathers the numbers; the crate `prometheus-client` encodes them. The text contains no names of
//! clients.

use std::fmt;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use xdr::facts::Effect;
use xdr::{CkRv, Function};

use super::{BUCKETS, Histogram};

/// The media type of what [`text`] returns.
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The numbers of the daemon.
#[derive(Debug)]
pub struct Numbers {
    /// When it started.
    pub since: SystemTime,
    /// Whether it accepts no new clients.
    pub drains: bool,
    /// The numbers of each service.
    pub services: Vec<ServiceNumbers>,
}

/// The numbers of a service.
#[derive(Debug)]
pub struct ServiceNumbers {
    /// Its name.
    pub name: String,
    /// How many workers it may have.
    pub max_workers: usize,
    /// How many workers are in each state.
    pub workers: Vec<(&'static str, usize)>,
    /// Clients that were handed to a worker.
    pub connections: u64,
    /// Clients that were turned away, by reason.
    pub turned_away: Vec<(&'static str, u64)>,
    /// Calls that the filter refused, by option and line of the rule, if there is one.
    pub refusals: Vec<(Option<(&'static str, String)>, u64)>,
    /// Calls by function and result.
    pub calls: Vec<(Function, Option<CkRv>, u64)>,
    /// How long calls took, from their decoding to their reply.
    pub whole: Histogram,
    /// How long these calls took in the module.
    pub module: Histogram,
}

/// Encodes the numbers as text.
pub fn text(numbers: Numbers) -> String {
    let mut registry = Registry::with_prefix("pkcs11proxy");
    registry.register_collector(Box::new(numbers));
    let mut text = String::new();
    // Writing to memory does not fail.
    let _ = text::encode(&mut text, &registry);
    text
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = |name: &str, help: &str, kind, numbers: &[(Labels<'_>, u64)]| {
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, number) in numbers {
                let mut metric = metric.encode_family(labels)?;
                match kind {
                    MetricType::Counter => {
                        metric.encode_counter::<NoLabelSet, _, u64>(number, None)?
                    }
                    _ => metric.encode_gauge(&i64::try_from(*number).unwrap_or(i64::MAX))?,
                }
            }
            fmt::Result::Ok(())
        };
        let since = self.since.duration_since(SystemTime::UNIX_EPOCH);
        let since = since.map_or(0, |since| since.as_secs());
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        family(
            "build",
            "The version of the daemon.",
            MetricType::Gauge,
            &[(version, 1)],
        )?;
        family(
            "start_time_seconds",
            "When the daemon started, in seconds since 1970.",
            MetricType::Gauge,
            &[(Vec::new(), since)],
        )?;
        family(
            "draining",
            "1 if the daemon accepts no new clients.",
            MetricType::Gauge,
            &[(Vec::new(), self.drains.into())],
        )?;
        family(
            "max_workers",
            "Upper bound on workers, and so on clients.",
            MetricType::Gauge,
            &self.each(|service| vec![(Vec::new(), service.max_workers as u64)]),
        )?;
        family(
            "workers",
            "Workers by state.",
            MetricType::Gauge,
            &self.each(|service| {
                let workers = service.workers.iter();
                let workers =
                    workers.map(|(state, count)| (vec![("state", *state)], *count as u64));
                workers.collect()
            }),
        )?;
        family(
            "connections",
            "Clients that were handed to a worker.",
            MetricType::Counter,
            &self.each(|service| vec![(Vec::new(), service.connections)]),
        )?;
        family(
            "turned_away",
            "Clients that were turned away, by reason.",
            MetricType::Counter,
            &self.each(|service| {
                let reasons = service.turned_away.iter();
                let reasons = reasons.map(|(reason, count)| (vec![("reason", *reason)], *count));
                reasons.collect()
            }),
        )?;
        family(
            "failed_logins",
            "Logins that the token, or the limit on guesses, refused because of the PIN.",
            MetricType::Counter,
            &self.each(|service| vec![(Vec::new(), service.failed_logins())]),
        )?;
        family(
            "refusals",
            "Calls that the filter or the limit on logins refused, by rule.",
            MetricType::Counter,
            &self.each(|service| {
                let refusals = service.refusals.iter();
                let refusals = refusals.map(|(rule, count)| {
                    let rule = rule.as_ref().map(|(option, line)| (*option, line.as_str()));
                    let (option, line) = rule.unwrap_or(("none", ""));
                    (vec![("rule", option), ("line", line)], *count)
                });
                refusals.collect()
            }),
        )?;
        family(
            "calls",
            "Calls by function and result.",
            MetricType::Counter,
            &self.each(|service| {
                let calls = service.calls.iter();
                let calls = calls.map(|(function, result, count)| {
                    let result = result.and_then(CkRv::name).unwrap_or("other");
                    (
                        vec![("function", function.name()), ("result", result)],
                        *count,
                    )
                });
                calls.collect()
            }),
        )?;
        self.histograms(
            &mut encoder,
            "call_duration",
            "How long calls took, from their decoding to their reply. Without C_WaitForSlotEvent.",
            |service| &service.whole,
        )?;
        self.histograms(
            &mut encoder,
            "module_duration",
            "Time that these calls took in the module.",
            |service| &service.module,
        )
    }
}

/// Names and values of labels.
type Labels<'a> = Vec<(&'a str, &'a str)>;

impl Numbers {
    /// Collects numbers of all services, with the service as first label.
    fn each<'a>(
        &'a self,
        numbers: impl Fn(&'a ServiceNumbers) -> Vec<(Labels<'a>, u64)>,
    ) -> Vec<(Labels<'a>, u64)> {
        let services = self.services.iter();
        let labelled = services.flat_map(|service| {
            numbers(service).into_iter().map(|(mut labels, number)| {
                labels.insert(0, ("service", service.name.as_str()));
                (labels, number)
            })
        });
        labelled.collect()
    }

    fn histograms(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&ServiceNumbers) -> &Histogram,
    ) -> fmt::Result {
        let mut metric =
            encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for service in &self.services {
            let Histogram { counts, sum } = of(service);
            let bounds = BUCKETS.iter().map(|micros| *micros as f64 / 1e6);
            let bounds = bounds.chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts.iter().copied()).collect();
            let labels = [("service", service.name.as_str())];
            metric
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(
                    sum.as_secs_f64(),
                    counts.iter().sum(),
                    &buckets,
                    None,
                )?;
        }
        Ok(())
    }
}

impl ServiceNumbers {
    fn failed_logins(&self) -> u64 {
        let failures = [
            CkRv::PIN_INCORRECT,
            CkRv::PIN_INVALID,
            CkRv::PIN_LEN_RANGE,
            CkRv::PIN_EXPIRED,
            CkRv::PIN_LOCKED,
        ];
        let calls = self.calls.iter().filter(|(function, result, _)| {
            function.facts().has(Effect::LogsIn) && result.is_some_and(|rv| failures.contains(&rv))
        });
        calls.map(|(.., count)| count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_text_has_each_number_with_its_service() {
        let mut counts = vec![0; BUCKETS.len() + 1];
        counts[2] = 5;
        counts[BUCKETS.len()] = 1;
        let histogram = Histogram {
            counts,
            sum: Duration::from_millis(1500),
        };
        let service = ServiceNumbers {
            name: "a \"b\"\n".into(),
            max_workers: 9,
            workers: vec![("idle", 1), ("serving", 2)],
            connections: 7,
            turned_away: vec![("tls", 3)],
            refusals: vec![(Some(("allowed_labels", "7".into())), 3), (None, 1)],
            calls: vec![
                (Function::C_Login, Some(CkRv::PIN_INCORRECT), 4),
                (Function::C_Login, Some(CkRv::OK), 2),
                (Function::C_Sign, None, 1),
            ],
            whole: histogram.clone(),
            module: histogram,
        };
        let text = text(Numbers {
            since: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
            drains: false,
            services: vec![service],
        });
        let name = r#"service="a \"b\"\n""#;
        for line in [
            "pkcs11proxy_start_time_seconds 5".to_owned(),
            format!("pkcs11proxy_workers{{{name},state=\"serving\"}} 2"),
            format!("pkcs11proxy_connections_total{{{name}}} 7"),
            format!("pkcs11proxy_turned_away_total{{{name},reason=\"tls\"}} 3"),
            format!("pkcs11proxy_failed_logins_total{{{name}}} 4"),
            format!("pkcs11proxy_refusals_total{{{name},rule=\"allowed_labels\",line=\"7\"}} 3"),
            format!("pkcs11proxy_refusals_total{{{name},rule=\"none\",line=\"\"}} 1"),
            format!("pkcs11proxy_calls_total{{{name},function=\"C_Sign\",result=\"other\"}} 1"),
            format!("pkcs11proxy_call_duration_seconds_bucket{{le=\"0.00005\",{name}}} 5"),
            format!("pkcs11proxy_call_duration_seconds_bucket{{le=\"+Inf\",{name}}} 6"),
            format!("pkcs11proxy_module_duration_seconds_sum{{{name}}} 1.5"),
            format!("pkcs11proxy_module_duration_seconds_count{{{name}}} 6"),
            "# EOF".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        // The alerts and the dashboard use no other metrics.
        let alerts = include_str!("../../etc/prometheus-alerts.yml");
        let dashboard = include_str!("../../etc/grafana-dashboard.json");
        assert!(serde_json::from_str::<serde_json::Value>(dashboard).is_ok());
        for file in [alerts, dashboard] {
            let mut names = file.split("pkcs11proxy_").skip(1);
            assert!(names.clone().count() > 5);
            assert!(names.all(|after| {
                let end = after.find(|it: char| !it.is_ascii_alphanumeric() && it != '_');
                let name = &after[..end.unwrap_or(after.len())];
                let line = format!("pkcs11proxy_{name}");
                text.lines().any(|found| {
                    found
                        .strip_prefix(&line)
                        .is_some_and(|rest| rest.starts_with(['{', ' ']))
                })
            }));
        }
    }
}
