//! Lists the sections of pkcs11proxyd.conf, and the parameters of each with their types.
//!
//! [`crate::netplex`] reads them; `checker` interprets them.

use std::fmt;

use config_file::{At, Float};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::profiles::ProfileSection;
use super::sandbox::SandboxSection;
use super::tls::TlsSection;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Root {
    pub(super) netplex: At<NetplexSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NetplexSection {
    pub(super) controller: Option<ControllerSection>,
    pub(super) daemon: Option<DaemonSection>,
    #[serde(default)]
    pub(super) service: Vec<At<ServiceSection>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ControllerSection {
    pub(super) socket_directory: Option<At<String>>,
    pub(super) max_level: Option<At<String>>,
    pub(super) logging: Vec<At<LoggingSection>>,
    /// This and `drain_timeout` belong in [`DaemonSection`]: the original refuses a `controller` that has them.
    pub(super) mechanisms_file: Option<At<String>>,
    pub(super) drain_timeout: Option<At<Float>>,
}

/// Options that belong to no service and that the original does not have. In this place the original ignores a section
/// that it does not know.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DaemonSection {
    pub(super) control_socket: Option<At<String>>,
    pub(super) metrics: Option<At<String>>,
    pub(super) mechanisms_file: Option<At<String>>,
    pub(super) drain_timeout: Option<At<Float>>,
    pub(super) audit: Option<At<AuditSection>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditSection {
    pub(super) file: Option<At<String>>,
    pub(super) key: Option<At<String>>,
    pub(super) sign_lines: Option<At<i64>>,
    pub(super) sign_interval: Option<At<Float>>,
    pub(super) when_full: Option<At<String>>,
    pub(super) journal: Option<At<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoggingSection {
    pub(super) r#type: At<String>,
    pub(super) format: Option<At<String>>,
    pub(super) component: Option<String>,
    pub(super) subchannel: Option<String>,
    pub(super) max_level: Option<At<String>>,
    pub(super) file: Option<At<FileOption>>,
    pub(super) directory: Option<At<String>>,
    pub(super) identifier: Option<At<String>>,
    pub(super) facility: Option<At<String>>,
}

/// A parameter for type `file`, sections for type `multi_file`.
pub(super) enum FileOption {
    Name(String),
    Sections(Vec<At<FileSection>>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSection {
    pub(super) file: At<String>,
    pub(super) format: Option<At<String>>,
    pub(super) component: Option<String>,
    pub(super) subchannel: Option<String>,
    pub(super) max_level: Option<At<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceSection {
    pub(super) name: String,
    pub(super) user: Option<At<String>>,
    pub(super) group: Option<At<String>>,
    pub(super) conn_limit: Option<At<i64>>,
    /// Has no effect: a worker is ready as soon as it is forked, or it is replaced.
    #[serde(rename = "startup_timeout")]
    pub(super) _startup_timeout: Option<Float>,
    /// Has no effect: there is no garbage collector.
    #[serde(rename = "gc_when_idle")]
    pub(super) _gc_when_idle: Option<bool>,
    #[serde(default)]
    pub(super) protocol: Vec<At<ProtocolSection>>,
    pub(super) processor: At<ProcessorSection>,
    pub(super) workload_manager: At<WorkloadSection>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProtocolSection {
    pub(super) name: String,
    #[serde(default)]
    pub(super) address: Vec<At<AddressSection>>,
    pub(super) lstn_backlog: Option<At<i64>>,
    pub(super) lstn_reuseaddr: Option<bool>,
    pub(super) so_keepalive: Option<bool>,
    pub(super) tcp_nodelay: Option<bool>,
    pub(super) local_chmod: Option<At<Mode>>,
    pub(super) local_chown: Option<At<String>>,
}

/// Mode bits as an integer, or as a string with OCaml's prefixes.
pub(super) enum Mode {
    Integer(i64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AddressSection {
    pub(super) r#type: At<String>,
    pub(super) bind: Option<At<String>>,
    pub(super) path: Option<At<String>>,
    pub(super) name: Option<At<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProcessorSection {
    pub(super) r#type: At<String>,
    pub(super) filter_config: Option<At<String>>,
    pub(super) libnames: Option<At<String>>,
    pub(super) portmapper: Option<At<bool>>,
    pub(super) timeout: Option<At<Float>>,
    pub(super) use_ssl: Option<At<bool>>,
    pub(super) tls: Option<At<TlsSection>>,
    pub(super) allowed_clients_cert_path: Option<At<String>>,
    pub(super) cafile: Option<At<String>>,
    pub(super) certfile: Option<At<String>>,
    pub(super) certkey: Option<At<String>>,
    pub(super) cipher_suite: Option<At<String>>,
    pub(super) dh_params: Option<At<String>>,
    pub(super) ec_curve_name: Option<At<String>>,
    pub(super) verify_depth: Option<At<i64>>,
    pub(super) handshake_timeout: Option<At<Float>>,
    pub(super) max_record_size: Option<At<i64>>,
    pub(super) record_memory: Option<At<i64>>,
    pub(super) record_timeout: Option<At<Float>>,
    pub(super) max_connections_per_peer: Option<At<i64>>,
    pub(super) proxy_protocol: Option<At<bool>>,
    pub(super) proxy_from: Option<At<String>>,
    pub(super) first_call_timeout: Option<At<Float>>,
    pub(super) abandoned_call_timeout: Option<At<Float>>,
    pub(super) max_failed_logins: Option<At<i64>>,
    pub(super) failed_login_window: Option<At<Float>>,
    pub(super) flat_mechanisms: Option<At<String>>,
    pub(super) compatibility: Option<At<String>>,
    pub(super) protocol: Option<At<i64>>,
    pub(super) max_parallel_calls: Option<At<i64>>,
    pub(super) daemonize_hook: Option<At<String>>,
    pub(super) sandbox: Option<At<SandboxSection>>,
    #[serde(default)]
    pub(super) profile: Vec<At<ProfileSection>>,
    pub(super) without_profile: Option<At<String>>,
    #[serde(default)]
    pub(super) module: Vec<At<ModuleSection>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModuleSection {
    pub(super) alias: At<String>,
    pub(super) init_args: Option<At<String>>,
    pub(super) flat_mechanisms: Option<At<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WorkloadSection {
    pub(super) r#type: At<String>,
    pub(super) max_jobs_per_thread: Option<At<i64>>,
    pub(super) recommended_jobs_per_thread: Option<At<i64>>,
    pub(super) min_free_jobs_capacity: Option<At<i64>>,
    pub(super) max_free_jobs_capacity: Option<At<i64>>,
    pub(super) max_threads: Option<At<i64>>,
    pub(super) inactivity_timeout: Option<At<i64>>,
    /// Has no effect: the controller always accepts all waiting connections.
    #[serde(rename = "greedy_accepts")]
    pub(super) _greedy_accepts: Option<bool>,
    pub(super) threads: Option<At<i64>>,
    pub(super) jobs: Option<At<i64>>,
}

impl<'de> Deserialize<'de> for FileOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct FileVisitor;
        impl<'de> Visitor<'de> for FileVisitor {
            type Value = FileOption;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or sections")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<FileOption, E> {
                Ok(FileOption::Name(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<FileOption, A::Error> {
                let mut sections = Vec::new();
                while let Some(section) = items.next_element()? {
                    sections.push(section);
                }
                Ok(FileOption::Sections(sections))
            }
        }
        deserializer.deserialize_any(FileVisitor)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ModeVisitor;
        impl Visitor<'_> for ModeVisitor {
            type Value = Mode;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer or a string")
            }
            fn visit_i64<E: de::Error>(self, bits: i64) -> Result<Mode, E> {
                Ok(Mode::Integer(bits))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Mode, E> {
                Ok(Mode::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(ModeVisitor)
    }
}
