//! Tests the library as an application uses it: loaded from its file, called through its C functions, forked, unloaded.
//! The daemon is a fake one or the original's.

#[macro_use]
mod harness;
mod arguments;
mod daemon;
mod descriptors;
mod exact;
mod failures;
mod forks;
mod hostile;
mod interfaces;
mod lifetime;
mod lying;
mod names;
mod original;
mod parameters;

/// Runs a scenario for one of the tests below. It is not a test of its own.
#[test]
fn scenario() {
    let Some(name) = std::env::var_os("SCENARIO") else {
        return;
    };
    // SAFETY: the default action needs no handler.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let scenarios: &[(&str, fn())] = &[
        ("before_initialize", arguments::before_initialize),
        ("arguments", arguments::arguments),
        (
            "descriptors_taken_over",
            descriptors::descriptors_taken_over,
        ),
        (
            "descriptors_taken_over_recovering",
            descriptors::descriptors_taken_over_recovering,
        ),
        ("unload_taken_over", descriptors::unload_taken_over),
        (
            "standard_descriptors_closed",
            descriptors::standard_descriptors_closed,
        ),
        ("fork_unused", forks::fork_unused),
        ("fork_used", forks::fork_used),
        ("fork_handler", forks::fork_handler),
        ("fork_with_same_id", forks::fork_with_same_id),
        ("fork_while_busy", forks::fork_while_busy),
        ("daemon_dies", lifetime::daemon_dies),
        ("unload", lifetime::unload),
        ("initialize_twice", lifetime::initialize_twice),
        ("finalize_while_busy", lifetime::finalize_while_busy),
        ("finalize_while_waiting", lifetime::finalize_while_waiting),
        ("exact_arguments", exact::exact_arguments),
        ("exact_threads", exact::exact_threads),
        ("exact_outputs", exact::exact_outputs),
        ("exact_templates", exact::exact_templates),
        ("parameters", parameters::parameters),
        ("vendor_parameters", parameters::vendor_parameters),
        ("interfaces", interfaces::interfaces),
        ("one_interface", interfaces::one_interface),
        ("interfaces_later", interfaces::interfaces_later),
        ("interfaces_forked", interfaces::interfaces_forked),
        ("interfaces_meanwhile", interfaces::interfaces_meanwhile),
        ("interface_setting", interfaces::interface_setting),
        ("lying", lying::lying),
        ("wait_at_the_daemon", lifetime::wait_at_the_daemon),
        ("hostile", hostile::hostile),
        ("two_phase", original::two_phase),
        (
            "finalize_beside_slow_call",
            lifetime::finalize_beside_slow_call,
        ),
        ("slow_finalize", lifetime::slow_finalize),
        ("stopped", lifetime::stopped),
        (
            "stopped_at_a_long_result",
            lifetime::stopped_at_a_long_result,
        ),
        ("cannot_connect", lifetime::cannot_connect),
        ("failing_initialize", failures::failing_initialize),
        ("failing_call", failures::failing_call),
        ("resolver_hangs", names::resolver_hangs),
        ("resolver_answers", names::resolver_answers),
        ("resolver_in_place", names::resolver_in_place),
        ("quickly_connected", names::quickly_connected),
        ("never_connected", names::never_connected),
    ];
    let known = scenarios.iter().find(|(known, _)| name == *known);
    known.expect("a scenario of the list").1();
}
