//! Tests of the configuration: texts of pkcs11proxyd.conf and what they are read as.

use super::*;
use crate::logging::settings::{Facility, LoggerKind};
use crate::record_memory;

pub(in crate::config) fn check(text: &str) -> Result<Configuration, String> {
    let file = Path::new("/etc/p.conf");
    config_file::parse::<Root>(text.as_bytes(), &Netplex)
        .and_then(|root| checker::check(root, file))
        .map_err(|fault| fault.in_file(file).to_string())
}

/// A complete file in which one line of each section can be replaced, named by its beginning.
pub(in crate::config) fn with(replaced: &str, line: &str) -> Result<Configuration, String> {
    let text = r#"netplex {
        controller { (*in controller*) };
        service {
            name = "svc"; (*in service*)
            protocol {
                name = "p"; (*in protocol*)
                address {
                    type = "internet"; bind = "127.0.0.1:4444" (*in address*) } };
            processor {
                type = "rpc_pkcs11"; filter_config = "filter.conf"; (*in processor*) };
            workload_manager {
                type = "dynamic"; min_free_jobs_capacity = 1; max_free_jobs_capacity = 1;
                max_threads = 9 (*in workload*) } } }"#;
    assert!(text.contains(replaced), "{replaced}");
    check(&text.replacen(replaced, line, 1))
}

pub(in crate::config) fn inside(section: &str, text: &str) -> Result<Configuration, String> {
    with(&format!("(*in {section}*)"), text)
}

pub(in crate::config) fn refused(section: &str, text: &str, expected: &str) {
    let message = inside(section, text).unwrap_err();
    assert!(message.starts_with("/etc/p.conf:"), "{message}");
    assert!(message.contains(expected), "{text}: {message}");
}

#[test]
fn loads_the_sample_file_without_warnings() {
    let file = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/etc/pkcs11proxyd.conf"
    ));
    let configuration = load(file).unwrap();
    assert_eq!(configuration.warnings, [""; 0]);
    let service = &configuration.services[0];
    let address = Address::Internet(vec!["127.0.0.1:4444".parse().unwrap()]);
    assert_eq!(service.protocols[0].addresses, [address]);
    let rules = filter::Rules::load(
        service.processor.rules.filter_file().unwrap(),
        &service.processor.compatibility,
    )
    .unwrap();
    assert_eq!(rules.warnings, [""; 0]);
    let module = rules.module(b"softhsm").unwrap();
    assert_eq!(module.path, Path::new("/usr/lib/softhsm/libsofthsm2.so"));
}

#[test]
fn has_the_defaults_of_the_original() {
    let configuration = with("", "").unwrap();
    assert_eq!(configuration.max_level, Severity::Info);
    assert_eq!(configuration.socket_directory, None);
    assert_eq!(configuration.mechanisms_file, None);
    assert_eq!(configuration.drain_timeout, Duration::from_secs(30));
    assert_eq!(configuration.loggers.len(), 1);
    assert_eq!(configuration.loggers[0].kind, LoggerKind::Stderr);
    let service = &configuration.services[0];
    assert_eq!((service.name.as_str(), &service.identity), ("svc", &None));
    let protocol = &service.protocols[0];
    assert_eq!(
        (protocol.backlog, protocol.mode, protocol.owner),
        (i32::MAX, None, None)
    );
    assert!(protocol.reuse_address && protocol.keepalive && !protocol.nodelay);
    let processor = &service.processor;
    assert_eq!(
        processor.rules.filter_file().unwrap(),
        Path::new("/etc/filter.conf")
    );
    assert_eq!(processor.max_record_size, 1 << 30);
    assert_eq!(processor.record_memory, record_memory::default_limit());
    assert_eq!(processor.record_timeout, Duration::from_secs(30));
    assert_eq!(processor.max_connections_per_peer, 0);
    assert_eq!(processor.first_call_timeout, Duration::from_secs(30));
    assert_eq!(processor.abandoned_call_timeout, Duration::from_secs(10));
    let logins = processor.failed_logins.unwrap();
    assert_eq!((logins.failures, logins.window.as_secs()), (10, 300));
    assert_eq!(processor.flat_mechanisms, [0; 0]);
    assert_eq!((processor.protocol, processor.max_parallel_calls), (4, 16));
    assert!(processor.modules.is_empty());
    assert_eq!(
        service.workload,
        Workload {
            spare: 1,
            max_workers: 9
        }
    );
}

#[test]
fn demands_a_service_with_an_address() {
    let none = check("netplex {\n }").unwrap_err();
    assert_eq!(
        none,
        "/etc/p.conf:1: netplex: expected at least one section `service`"
    );
    let capital = check("netplex {\n Service { } }").unwrap_err();
    assert_eq!(
        capital,
        "/etc/p.conf:2: netplex.Service: unknown option; did you mean `service`?"
    );
    let address = r#"address {
                    type = "internet"; bind = "127.0.0.1:4444" (*in address*) }"#;
    let message = with(address, "").unwrap_err();
    assert!(message.ends_with("expected at least one `protocol` with an `address`"));
}

#[test]
fn refuses_unknown_options_in_every_section() {
    for section in [
        "controller",
        "service",
        "protocol",
        "address",
        "processor",
        "workload",
    ] {
        let semicolon = if matches!(section, "address" | "workload") {
            "; "
        } else {
            ""
        };
        refused(
            section,
            &format!("{semicolon}nonsense = 1;"),
            "nonsense: unknown option",
        );
        refused(
            section,
            &format!("{semicolon}nonsense {{ }};"),
            "nonsense: unknown option",
        );
    }
    refused(
        "service",
        "conn_limt = 1;",
        "service[0].conn_limt: unknown option; did you mean `conn_limit`",
    );
}

#[test]
fn refuses_what_it_does_not_have() {
    refused(
        "processor",
        "portmapper = true;",
        "portmapper: expected false",
    );
    let harmless = inside("processor", "use_ssl = false; portmapper = false;").unwrap();
    assert_eq!(harmless.warnings, [""; 0]);
    for kind in ["container", "internal", "w32_pipe"] {
        let message = with("\"internet\"", &format!("\"{kind}\"")).unwrap_err();
        assert!(
            message.contains("address[0].type: not supported"),
            "{message}"
        );
    }
}

#[test]
fn warns_of_what_has_no_effect() {
    for (section, option, expected) in [
        (
            "service",
            "conn_limit = 2;",
            "each worker serves one client",
        ),
        (
            "service",
            "conn_limit = 0;",
            "each worker serves one client",
        ),
        (
            "workload",
            "; max_jobs_per_thread = 5",
            "each worker serves one client",
        ),
        (
            "processor",
            "timeout = 2.0;",
            "processor.timeout: has no effect",
        ),
        (
            "processor",
            "record_memory = 4000000000000000000;",
            "processor.record_memory: more than the ",
        ),
        (
            "processor",
            "max_record_size = 1073741824; record_memory = 1000000000;",
            "processor.max_record_size: has no effect above record_memory, 1000000000",
        ),
        (
            "protocol",
            "local_chmod = \"0600\";",
            "local_chmod: a decimal number",
        ),
        (
            "controller",
            "logging { type = \"stderr\"; format = \"${nope}\" }",
            "unknown variable `nope`",
        ),
    ] {
        let warnings = inside(section, option).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{option}");
        assert!(warnings[0].starts_with("/etc/p.conf:"), "{warnings:?}");
        assert!(warnings[0].contains(expected), "{warnings:?}");
    }
    assert_eq!(
        inside("service", "conn_limit = 1;").unwrap().warnings,
        [""; 0]
    );
}

#[test]
fn checks_the_workload() {
    let dynamic = "type = \"dynamic\"; min_free_jobs_capacity = 1; max_free_jobs_capacity = 1;
                max_threads = 9";
    let workload = |text: &str| with(dynamic, text).map(|c| c.services[0].workload.clone());
    let on_demand = "type = \"dynamic\"; min_free_jobs_capacity = 0;
        max_free_jobs_capacity = 0; max_threads = 2; inactivity_timeout = 1;
        greedy_accepts = true; recommended_jobs_per_thread = 1";
    assert_eq!(
        workload(on_demand).unwrap(),
        Workload {
            spare: 0,
            max_workers: 2
        }
    );
    let many = "type = \"dynamic\"; min_free_jobs_capacity = 5; max_free_jobs_capacity = 5;
        max_threads = 2";
    assert_eq!(
        workload(many).unwrap(),
        Workload {
            spare: 2,
            max_workers: 2
        }
    );
    for (text, expected) in [
        ("type = \"static\"", "type: expected dynamic or constant"),
        ("type = \"constant\"", "`threads` is missing"),
        (
            "type = \"constant\"; threads = 0",
            "threads: expected 1 or more",
        ),
        (
            "type = \"constant\"; threads = 1; jobs = 1",
            "jobs: means the same as `threads`, which is also given",
        ),
        (
            "type = \"constant\"; max_threads = 1",
            "max_threads: is not a parameter of type constant",
        ),
        (
            "type = \"dynamic\"; threads = 1",
            "threads: is not a parameter of type dynamic",
        ),
        (
            "type = \"dynamic\"; min_free_jobs_capacity = -1",
            "min_free_jobs_capacity: expected 0 or more",
        ),
        (
            "type = \"dynamic\"; min_free_jobs_capacity = 1",
            "`max_free_jobs_capacity` is missing",
        ),
        (
            "type = \"dynamic\"; min_free_jobs_capacity = 2; max_free_jobs_capacity = 1",
            "max_free_jobs_capacity: expected 2 or more",
        ),
        (
            "type = \"dynamic\"; min_free_jobs_capacity = 1; max_free_jobs_capacity = 1",
            "`max_threads` is missing",
        ),
        (
            "type = \"dynamic\"; recommended_jobs_per_thread = 2",
            "recommended_jobs_per_thread: expected 1 or less",
        ),
        (
            "type = \"dynamic\"; max_jobs_per_thread = 0",
            "max_jobs_per_thread: expected 1 or more",
        ),
    ] {
        let message = workload(text).unwrap_err();
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn reads_the_new_parameters_of_the_processor() {
    let text = "max_record_size = 65536; record_timeout = 0.5; max_connections_per_peer = 7;
        record_memory = 4194304; first_call_timeout = 1.5; abandoned_call_timeout = 2.5;
        max_failed_logins = 0; failed_login_window = 1.0;
        flat_mechanisms = \" 0x80000001 12\"; compatibility = \"admin-login-only\";";
    let processor = inside("processor", text).unwrap().services[0]
        .processor
        .clone();
    assert_eq!(processor.max_record_size, 65536);
    assert_eq!(processor.record_memory, 4 << 20);
    assert_eq!(processor.record_timeout, Duration::from_millis(500));
    assert_eq!(processor.max_connections_per_peer, 7);
    assert!(processor.failed_logins.is_none());
    assert_eq!(processor.first_call_timeout, Duration::from_millis(1500));
    assert_eq!(
        processor.abandoned_call_timeout,
        Duration::from_millis(2500)
    );
    assert_eq!(processor.flat_mechanisms, [0x8000_0001, 12]);
    let on: Vec<_> = processor
        .compatibility
        .effects()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(on, ["admin-login-only"]);
    for (text, expected) in [
        ("max_record_size = 65535;", "expected 65536 or more"),
        (
            "max_record_size = 1073741825;",
            "expected 1073741824 or less",
        ),
        ("record_memory = 4194303;", "expected 4194304 or more"),
        ("record_memory = -1;", "expected 4194304 or more"),
        (
            "record_memory = 1.0;",
            "expected an integer, found a number with a decimal point",
        ),
        (
            "record_timeout = 30;",
            "expected a number with a decimal point such as 60.0, found an integer",
        ),
        ("record_timeout = 0.0;", "expected more than 0.0"),
        ("record_timeout = -1.0;", "expected more than 0.0"),
        ("record_timeout = 1e300;", "expected more than 0.0"),
        ("max_connections_per_peer = -1;", "expected 0 or more"),
        ("first_call_timeout = 0.0;", "expected more than 0.0"),
        ("abandoned_call_timeout = 0.0;", "expected more than 0.0"),
        ("max_failed_logins = -1;", "expected 0 or more"),
        ("max_failed_logins = 201;", "expected 200 or less"),
        ("failed_login_window = 0.0;", "expected more than 0.0"),
        ("protocol = 2;", "expected 3 or more"),
        ("protocol = 5;", "expected 4 or less"),
        ("max_parallel_calls = 0;", "expected 1 or more"),
        ("max_parallel_calls = 257;", "expected 256 or less"),
        ("module { }", "alias"),
        ("module { alias = 3; }", "expected a string"),
        ("module { alias = \"a\"; flat = \"1\"; }", "flat"),
        (
            "module { alias = \"a\"; flat_mechanisms = \"x\"; }",
            "expected numbers",
        ),
        (
            "module { alias = \"a\"; }; module { alias = \"a\"; }",
            "already has a section, in line ",
        ),
        ("flat_mechanisms = \"CKM_AES_CBC\";", "expected numbers"),
        (
            "compatibility = \"all\";",
            "compatibility: unknown switch `all`; the switches are ",
        ),
    ] {
        refused("processor", text, expected);
    }
}

#[test]
fn a_module_section_is_for_its_module_alone() {
    let text = "flat_mechanisms = \"1\"; protocol = 3; max_parallel_calls = 64;
        module { alias = \"nss\"; init_args = \"configdir='sql:/db'\"; flat_mechanisms = \"2\"; };
        module { alias = \"other\"; }";
    let configuration = inside("processor", text).unwrap();
    let processor = &configuration.services[0].processor;
    assert_eq!((processor.protocol, processor.max_parallel_calls), (3, 64));
    let nss = processor.module(b"nss");
    assert_eq!(nss.flat_mechanisms, [1, 2]);
    assert_eq!(nss.init_args.as_deref(), Some("configdir='sql:/db'"));
    for other in ["other", "NSS", "ns", ""] {
        let options = processor.module(other.as_bytes());
        assert_eq!(
            (options.flat_mechanisms, options.init_args),
            (vec![1], None)
        );
    }
}

#[test]
fn types_are_exact() {
    for (section, text, expected) in [
        (
            "service",
            "startup_timeout = 60;",
            "expected a number with a decimal point",
        ),
        (
            "service",
            "gc_when_idle = 1;",
            "expected a boolean, found an integer",
        ),
        (
            "service",
            "conn_limit = \"1\";",
            "expected an integer, found a string",
        ),
        (
            "processor",
            "use_ssl = \"true\";",
            "expected a boolean, found a string",
        ),
        (
            "protocol",
            "tcp_nodelay = 1;",
            "expected a boolean, found an integer",
        ),
        (
            "controller",
            "max_level = 3",
            "expected a string, found an integer",
        ),
        (
            "controller",
            "max_level = \"fatal\"",
            "max_level: expected emerg, ",
        ),
    ] {
        refused(section, text, expected);
    }
    assert_eq!(
        inside("controller", "max_level = \"ALL\"")
            .unwrap()
            .max_level,
        Severity::Debug
    );
}

#[test]
fn reads_every_type_of_logger() {
    let loggers = |text: &str| inside("controller", text).map(|c| c.loggers);
    let all = loggers(
        "logging { type = \"stderr\"; component = \"svc\"; max_level = \"err\" };
         logging { type = \"file\"; file = \"/var/log/x\"; format = \"$message\" };
         logging { type = \"multi_file\"; directory = \"/d\";
            file { file = \"a\"; subchannel = \"\" }; file { file = \"/b\" } };
         logging { type = \"syslog\"; identifier = \"i\"; facility = \"LOCAL3\" }",
    )
    .unwrap();
    assert_eq!(
        (
            all[0].selection.component.as_str(),
            all[0].selection.max_level
        ),
        ("svc", Severity::Err)
    );
    assert_eq!(all[1].kind, LoggerKind::File("/var/log/x".into()));
    let LoggerKind::MultiFile(files) = &all[2].kind else {
        panic!()
    };
    let paths: Vec<_> = files.iter().map(|file| file.path.as_path()).collect();
    assert_eq!(paths, [Path::new("/d/a"), Path::new("/b")]);
    assert_eq!(files[0].selection.subchannel, "");
    let facility = Facility::from_name("local3").unwrap();
    assert_eq!(
        all[3].kind,
        LoggerKind::Syslog {
            identifier: "i".into(),
            facility
        }
    );
    for (text, expected) in [
        ("", "logging[0]: `type` is missing"),
        (
            "type = \"null\"",
            "type: expected stderr, file, multi_file or syslog",
        ),
        ("type = \"file\"", "`file` is missing"),
        (
            "type = \"file\"; file { file = \"a\" }",
            "file: expected a string",
        ),
        ("type = \"multi_file\"", "`directory` is missing"),
        (
            "type = \"multi_file\"; directory = \"/d\"; file = \"x\"",
            "file: expected sections",
        ),
        (
            "type = \"stderr\"; file = \"x\"",
            "file: is not a parameter of type stderr",
        ),
        (
            "type = \"stderr\"; identifier = \"x\"",
            "identifier: is not a parameter of type stderr",
        ),
        (
            "type = \"syslog\"; facility = \"local8\"",
            "facility: expected a syslog facility",
        ),
        (
            "type = \"stderr\"; format = \"$\"",
            "format: expected a variable",
        ),
        (
            "type = \"stderr\"; max_level = \"x\"",
            "max_level: expected emerg",
        ),
    ] {
        let message = loggers(&format!("logging {{ {text} }}")).unwrap_err();
        assert!(message.contains(expected), "{text}: {message}");
    }
}

/// The original refuses both options in `controller`.
#[test]
fn what_belongs_to_no_service_is_in_a_section_that_the_original_ignores() {
    let of = |text: &str| with("controller { (*in controller*) }", text);
    for (section, warnings) in [("daemon", 0), ("controller", 2)] {
        let text = format!("{section} {{ drain_timeout = 2.5; mechanisms_file = \"m.toml\" }}");
        let configuration = of(&text).unwrap();
        assert_eq!(configuration.drain_timeout, Duration::from_millis(2500));
        let file = configuration.mechanisms_file.unwrap();
        assert_eq!(file, Path::new("/etc/m.toml"));
        assert_eq!(configuration.warnings.len(), warnings);
    }
    let twice = of("daemon { drain_timeout = 2.5 }; controller { drain_timeout = 2.5 }");
    let message = twice.unwrap_err();
    assert!(message.contains("section `daemon`"), "{message}");
    for address in ["0.0.0.0:9464", "localhost:9464", "127.0.0.1"] {
        let message = of(&format!("daemon {{ metrics = \"{address}\" }}")).unwrap_err();
        assert!(
            message.contains("metrics: expected an address"),
            "{message}"
        );
    }
    assert!(of("daemon { metrics = \"[::1]:9464\" }").is_ok());
    assert!(of("daemon { max_level = \"info\" }").is_err());
}

#[test]
fn survives_every_prefix_of_the_sample() {
    let text = include_bytes!("../../etc/pkcs11proxyd.conf").trim_ascii_end();
    for end in (0..text.len()).step_by(7) {
        assert!(config_file::parse::<Root>(&text[..end], &Netplex).is_err());
    }
}

#[test]
fn balancers_are_named_and_only_for_tcp() {
    let both = "proxy_protocol = true; proxy_from = \"10.0.0.7 10.1.0.0/24\";";
    let configuration = inside("processor", both).unwrap();
    let balancers = configuration.services[0].processor.balancers.clone();
    assert_eq!(balancers.unwrap().to_string(), "10.0.0.7/32 10.1.0.0/24");
    let off = inside("processor", "proxy_protocol = false;").unwrap();
    assert_eq!(off.services[0].processor.balancers, None);
    for (on, from, expected) in [
        (true, None, "expected `proxy_from` as well"),
        (false, Some("10.0.0.7"), "expected `proxy_protocol = true`"),
        (true, Some(""), "at least one address"),
        (true, Some("::/0"), "choose its address"),
        (true, Some("10.1.0.5/24"), "the network is 10.1.0.0/24"),
        (true, Some("proxy"), "`proxy`: expected IP addresses"),
    ] {
        let from = from.map_or(String::new(), |from| format!("proxy_from = \"{from}\";"));
        let text = format!("proxy_protocol = {on}; {from}");
        refused("processor", &text, expected);
    }
    let local = format!(
        "netplex {{ service {{ name = \"s\";
           protocol {{ name = \"p\"; address {{ type = \"local\"; path = \"/run/s\" }} }};
           processor {{ type = \"rpc_pkcs11\"; filter_config = \"f\"; {both} }};
           workload_manager {{ type = \"constant\"; threads = 2 }} }} }}"
    );
    assert!(check(&local).unwrap_err().contains("is for TCP"));
}

#[test]
fn the_outline_has_what_the_sample_has() {
    let root = outline().unwrap();
    let inside = |section: &Outline, name: &str| {
        let found = section.inside.iter().find(|it| it.name == name);
        found.unwrap_or_else(|| panic!("no {name}")).clone()
    };
    let service = inside(&inside(&root, "netplex"), "service");
    let processor = inside(&service, "processor");
    assert_eq!(inside(&processor, "record_timeout").kind, "float");
    assert_eq!(inside(&inside(&processor, "tls"), "x509").kind, "section");
    let protocol = inside(&service, "protocol");
    assert_eq!(inside(&protocol, "local_chmod").kind, "string");
    let logging = inside(&inside(&inside(&root, "netplex"), "controller"), "logging");
    assert_eq!(
        inside(&inside(&logging, "file"), "max_level").kind,
        "string"
    );
}
