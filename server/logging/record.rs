//! Defines log records: a message, its severity and its sender; and [`Route`], which takes them.

/// The severity of a message, as in syslog: a smaller value is more severe.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs, reason = "syslog's names")]
pub enum Severity {
    Emerg,
    Alert,
    Crit,
    Err,
    Warning,
    Notice,
    Info,
    Debug,
}

impl Severity {
    /// All severities, in the order of their codes.
    pub const ALL: [Severity; 8] = [
        Severity::Emerg,
        Severity::Alert,
        Severity::Crit,
        Severity::Err,
        Severity::Warning,
        Severity::Notice,
        Severity::Info,
        Severity::Debug,
    ];

    /// The lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Emerg => "emerg",
            Severity::Alert => "alert",
            Severity::Crit => "crit",
            Severity::Err => "err",
            Severity::Warning => "warning",
            Severity::Notice => "notice",
            Severity::Info => "info",
            Severity::Debug => "debug",
        }
    }

    /// The severity of this name, in any case; `all` is `debug`.
    pub fn from_name(name: &str) -> Option<Severity> {
        if name.eq_ignore_ascii_case("all") {
            return Some(Severity::Debug);
        }
        Severity::ALL
            .into_iter()
            .find(|severity| severity.name().eq_ignore_ascii_case(name))
    }

    /// Its code in syslog, 0 to 7.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

/// A log message with its severity and sender.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its severity.
    pub severity: Severity,
    /// Who sends it: `netplex.controller`, or the name of a service.
    pub component: &'a str,
    /// A part of the component, mostly "".
    pub subchannel: &'a str,
    /// The text, unescaped.
    pub message: &'a str,
}

/// Takes log records.
pub trait Route: Send + Sync {
    /// Takes one record. It must not log.
    fn record(&self, record: &Record<'_>);

    /// The least severe level that is wanted. Less severe messages are not even formatted.
    fn max_level(&self) -> Severity {
        Severity::Debug
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_names_of_severities() {
        assert_eq!(Severity::from_name("ERR"), Some(Severity::Err));
        assert_eq!(Severity::from_name("all"), Some(Severity::Debug));
        assert_eq!(Severity::from_name("error"), None);
        assert!(
            Severity::ALL
                .iter()
                .zip(0..)
                .all(|(severity, code)| severity.code() == code)
        );
        assert!(Severity::Emerg < Severity::Debug);
    }
}
