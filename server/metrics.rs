//! Counts calls and measures how long they take, for a monitoring system.
//!
//! The workers of a service add to counters in memory that they share with the controller. The controller reads them
//! when somebody asks; `exposition` writes them in Prometheus' format. If the configuration has neither a metrics
//! address nor a control socket, the workers have no counters, and calls take no extra time.

pub mod exposition;

use std::cell::Cell;
use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bindings::shared;
use filter::Witness;
use filter::config::OPTIONS;
use filter::module_rules::Source;
use filter::witness::Refused;
use xdr::{Call, CkRv, Cryptoki, Function, NullPlaces, Reply};

/// Upper bounds of the buckets of a histogram, in microseconds. One more bucket counts longer times.
pub const BUCKETS: [u64; 18] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 10_000_000,
];

/// The counters of a histogram: its buckets, and the sum of all times in nanoseconds.
const HISTOGRAM: usize = BUCKETS.len() + 2;

/// Results that are counted by name, and one counter for all others.
const RESULTS: usize = CkRv::NAMED.len() + 1;

/// Upper bound on the rules whose refusals are counted; refusals by further rules are not. Each rule has a counter that
/// identifies it, and one for its refusals.
const RULES: usize = 256;

/// The position of the first counter of rules, which is behind the two histograms.
const REFUSALS: usize = 2 * HISTOGRAM;

/// The position of the first counter of results.
const CALLS: usize = REFUSALS + 2 * RULES;

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Measured {
    /// The time from the decoding of a call to its reply.
    Whole,
    /// The time that the module needs for the call.
    Module,
}

/// The counters of a service, for the controller, which reads them.
#[derive(Clone, Copy)]
pub struct Meters(&'static [AtomicU64]);

/// The counters of a service, for a worker, which adds to them; `None` if nobody reads them.
#[derive(Clone, Copy)]
pub struct Meter(Option<&'static [AtomicU64]>);

/// A histogram as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// For each of [`BUCKETS`], how many calls took less time than that but not less than the one before; then those
    /// that took longer.
    pub counts: Vec<u64>,
    /// The sum of all times.
    pub sum: Duration,
}

impl Meters {
    /// Makes the counters, all at 0.
    pub fn new() -> io::Result<Meters> {
        let functions = Function::ALL.iter().map(|function| function.number());
        let rows = functions.max().map_or(0, |last| last as usize + 1);
        let count = NonZeroUsize::MIN.saturating_add(CALLS + rows * RESULTS);
        Ok(Meters(shared::counters(count)?))
    }

    /// Returns the meter of a worker that is about to be forked.
    pub fn share(self) -> Meter {
        Meter(Some(self.0))
    }

    /// Returns how many calls of each function had each result; `None` stands for all results without a name. Counts of
    /// 0 are left out.
    pub fn calls(self) -> impl Iterator<Item = (Function, Option<CkRv>, u64)> {
        let results = CkRv::NAMED.iter().copied().map(Some).chain([None]);
        Function::ALL.iter().flat_map(move |function| {
            let row = self.0.get(row(*function)..).unwrap_or_default();
            let counts = row.iter().map(|count| count.load(Ordering::Relaxed));
            results
                .clone()
                .zip(counts)
                .filter_map(|(result, count)| (count > 0).then_some((*function, result, count)))
        })
    }

    /// Returns how many calls each rule has refused: its option and line in the filter file, or `None` for refusals
    /// without a rule in the file.
    pub fn refusals(self) -> impl Iterator<Item = (Option<(&'static str, u64)>, u64)> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let rules = refusals(self.0).map(move |(rule, count)| (read(rule), read(count)));
        rules.filter(|(_, count)| *count > 0).map(|(rule, count)| {
            let option = usize::try_from(rule >> 32).ok();
            let option = option.and_then(|option| OPTIONS.get(option.checked_sub(2)?));
            (option.map(|option| (*option, rule & LINE)), count)
        })
    }

    /// Returns how long calls took.
    pub fn histogram(self, measured: Measured) -> Histogram {
        let counters = histogram(self.0, measured).unwrap_or_default();
        let mut counts: Vec<u64> = counters
            .iter()
            .map(|counter| counter.load(Ordering::Relaxed))
            .collect();
        let sum = Duration::from_nanos(counts.pop().unwrap_or(0));
        Histogram { counts, sum }
    }
}

/// The bits of a rule's number that contain its line.
const LINE: u64 = (1 << 32) - 1;

/// Returns the number that identifies a rule, which is not 0. The upper 32 bits are the position of its option plus 2,
/// and the lower 32 bits its line. For refusals without a rule the upper bits are 1.
fn number(rule: Option<Source>) -> u64 {
    let position = |rule: &Source| OPTIONS.iter().position(|option| *option == rule.option);
    match rule.and_then(|rule| Some((position(&rule)?, rule.line))) {
        Some((position, line)) => ((position as u64 + 2) << 32) | u64::from(line),
        None => 1 << 32,
    }
}

/// Returns the two counters of each rule: its number, and its refusals.
fn refusals(counters: &[AtomicU64]) -> impl Iterator<Item = (&AtomicU64, &AtomicU64)> {
    let rules = counters.get(REFUSALS..CALLS).unwrap_or_default();
    rules.chunks_exact(2).filter_map(|rule| match rule {
        [rule, count] => Some((rule, count)),
        _ => None,
    })
}

fn row(function: Function) -> usize {
    CALLS + function.number() as usize * RESULTS
}

fn histogram(counters: &[AtomicU64], measured: Measured) -> Option<&[AtomicU64]> {
    let start = match measured {
        Measured::Whole => 0,
        Measured::Module => HISTOGRAM,
    };
    counters.get(start..start + HISTOGRAM)
}

thread_local! {
    /// The time that the module has needed for the call that this thread executes.
    static IN_MODULE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

impl Meter {
    /// The meter of a worker whose metrics nobody can read.
    pub const OFF: Meter = Meter(None);

    /// Whether calls are counted.
    pub fn is_on(self) -> bool {
        self.0.is_some()
    }

    /// Executes a call, counts it, and measures it.
    pub fn measure(self, function: Function, call: impl FnOnce() -> Reply) -> Reply {
        let Some(counters) = self.0 else {
            return call();
        };
        IN_MODULE.set(Duration::ZERO);
        let start = Instant::now();
        let reply = call();
        let rv = reply.rv();
        let named = CkRv::NAMED.iter().position(|known| *known == rv);
        let result = named.unwrap_or(CkRv::NAMED.len());
        if let Some(counter) = counters.get(row(function) + result) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        // Its time says nothing, because it waits for a slot event.
        if function != Function::C_WaitForSlotEvent {
            add(counters, Measured::Whole, start.elapsed());
            let in_module = IN_MODULE.take();
            if !in_module.is_zero() {
                add(counters, Measured::Module, in_module);
            }
        }
        reply
    }
}

/// Counts refusals by rule, and passes them on to another witness.
pub struct Refusals<'a> {
    meter: Meter,
    next: Option<&'a dyn Witness>,
}

impl Meter {
    /// Returns a witness that counts refusals and passes them on to another one.
    pub fn witness(self, next: Option<&dyn Witness>) -> Refusals<'_> {
        Refusals { meter: self, next }
    }
}

impl Witness for Refusals<'_> {
    fn refused(&self, refused: &Refused<'_>) {
        let number = number(refused.rule.map(|(_, source)| source));
        let counters = self.meter.0.unwrap_or_default();
        for (rule, count) in refusals(counters) {
            // The first process that writes a rule's number has the place for that rule.
            let taken = rule.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() || taken == Err(number) {
                count.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        if let Some(next) = self.next {
            next.refused(refused);
        }
    }
}

fn add(counters: &[AtomicU64], measured: Measured, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let bucket = BUCKETS.iter().position(|bound| micros < *bound);
    let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let counters = histogram(counters, measured).unwrap_or_default();
    let bucket = counters.get(bucket.unwrap_or(BUCKETS.len()));
    for (counter, amount) in bucket
        .into_iter()
        .zip([1])
        .chain(counters.last().into_iter().zip([nanos]))
    {
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}

/// Measures the time that a module needs for each call, for [`Meter::measure`].
pub struct Timed<M> {
    module: M,
    /// Whether times are measured.
    is_on: bool,
}

impl<M> Timed<M> {
    /// Measures the calls of a module, if this meter of the worker is on.
    pub fn new(module: M, meter: Meter) -> Timed<M> {
        Timed {
            module,
            is_on: meter.0.is_some(),
        }
    }
}

impl<M: Cryptoki> Cryptoki for Timed<M> {
    fn call(&self, call: Call<'_>) -> Reply {
        self.call_with_nulls(call, NullPlaces::NONE)
    }

    fn call_with_nulls(&self, call: Call<'_>, nulls: NullPlaces) -> Reply {
        if !self.is_on {
            return self.module.call_with_nulls(call, nulls);
        }
        let start = Instant::now();
        let reply = self.module.call_with_nulls(call, nulls);
        IN_MODULE.set(IN_MODULE.get() + start.elapsed());
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a time for each call, and answers CKR_OK.
    struct Slow(Duration);

    impl Cryptoki for Slow {
        fn call(&self, call: Call<'_>) -> Reply {
            std::thread::sleep(self.0);
            Reply::only(call.function(), CkRv::OK)
        }
    }

    #[test]
    fn calls_are_counted_by_function_and_result_and_measured_twice() {
        let meters = Meters::new().unwrap();
        let meter = meters.share();
        let module = Timed::new(Slow(Duration::from_millis(3)), meter);
        let function = Function::C_GetInfo;
        for rv in [CkRv::OK, CkRv::OK, CkRv::PIN_INCORRECT, CkRv(0x8000_0001)] {
            let reply = meter.measure(function, || {
                if rv.is_ok() {
                    // A rule may ask the module as well.
                    assert!(module.call(Call::C_GetInfo()).rv().is_ok());
                    assert!(module.call(Call::C_GetInfo()).rv().is_ok());
                }
                Reply::only(function, rv)
            });
            assert_eq!(reply.rv(), rv);
        }
        meter.measure(Function::C_WaitForSlotEvent, || {
            Reply::only(Function::C_WaitForSlotEvent, CkRv::NO_EVENT)
        });
        let calls: Vec<_> = meters.calls().collect();
        assert_eq!(
            calls,
            [
                (function, Some(CkRv::OK), 2),
                (function, Some(CkRv::PIN_INCORRECT), 1),
                (function, None, 1),
                (Function::C_WaitForSlotEvent, Some(CkRv::NO_EVENT), 1),
            ]
        );
        let whole = meters.histogram(Measured::Whole);
        assert_eq!(whole.counts.iter().sum::<u64>(), 4);
        let in_module = meters.histogram(Measured::Module);
        assert_eq!(in_module.counts.iter().sum::<u64>(), 2);
        assert!(in_module.sum >= Duration::from_millis(12), "{in_module:?}");
        assert!(whole.sum >= in_module.sum);
        let fast: u64 = in_module.counts.iter().take(8).sum();
        assert_eq!(fast, 0, "{in_module:?}");
    }

    #[test]
    fn refusals_are_counted_by_rule_and_told_to_the_next_witness() {
        struct Next(AtomicU64);
        impl Witness for Next {
            fn refused(&self, _: &Refused<'_>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let next = Next(AtomicU64::new(0));
        let meters = Meters::new().unwrap();
        let file = std::path::Path::new("filter.conf");
        let refuse = |rule: Option<(&'static str, u32)>| {
            let rule = rule.map(|(option, line)| (file, Source { option, line }));
            let (function, rv) = (Function::C_Sign, CkRv::GENERAL_ERROR);
            let refused = Refused {
                function,
                rv,
                rule,
                limit: None,
            };
            let witness = meters.share().witness(Some(&next));
            witness.refused(&refused);
            Meter::OFF.witness(Some(&next)).refused(&refused);
        };
        for rule in [
            Some(("allowed_labels", 7)),
            None,
            Some(("allowed_labels", 9)),
            Some(("allowed_labels", 7)),
            Some(("of another version", 7)),
        ] {
            refuse(rule);
        }
        let counted: Vec<_> = meters.refusals().collect();
        assert_eq!(
            counted,
            [
                (Some(("allowed_labels", 7)), 2),
                (None, 2),
                (Some(("allowed_labels", 9)), 1)
            ]
        );
        assert_eq!(next.0.load(Ordering::Relaxed), 10);
        for line in 1000..2000 {
            refuse(Some(("allowed_ids", line)));
        }
        assert_eq!(meters.refusals().count(), RULES);
        assert_eq!(meters.calls().count(), 0);
    }

    #[test]
    fn a_time_is_in_the_bucket_that_it_does_not_reach() {
        let meters = Meters::new().unwrap();
        for micros in [0, 9, 10, 9_999_999, 10_000_000, u64::MAX / 1000] {
            add(meters.0, Measured::Whole, Duration::from_micros(micros));
        }
        let counts = meters.histogram(Measured::Whole).counts;
        assert_eq!((counts[0], counts[1]), (2, 1));
        assert_eq!((counts[BUCKETS.len() - 1], counts[BUCKETS.len()]), (1, 2));
    }

    #[test]
    fn without_a_meter_nothing_is_counted() {
        let rv = Meter::OFF.measure(Function::C_GetInfo, || {
            Reply::only(Function::C_GetInfo, CkRv::OK)
        });
        assert!(rv.rv().is_ok());
    }
}
