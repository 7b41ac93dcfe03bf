//! What once went wrong, or might: answers that come late, tokens that change, sessions that end in another order.

use super::*;

/// Such as one whose module does not survive the call.
#[test]
fn waiting_for_a_slot_does_not_keep_a_daemon_busy_that_ends_every_connection() {
    let (module, recovery, ..) = ready();
    module.change(|state| state.always_breaks_at = Some(Function::C_WaitForSlotEvent));
    for flags in [0, 1] {
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            let recovery = &recovery;
            scope.spawn(move || {
                sender.send(recovery.call(Call::C_WaitForSlotEvent(Flags(flags))).rv())
            });
            let rv = receiver.recv_timeout(Duration::from_secs(3));
            if rv.is_err() {
                module.change(|state| state.always_breaks_at = None);
            }
            assert_eq!(rv, Ok(CkRv::DEVICE_ERROR));
        });
    }
}

/// Many objects look alike, and the module takes its time.
#[test]
fn restoring_takes_no_longer_than_the_timeout_and_one_call() {
    let (module, recovery, session, key) = ready();
    module.cut();
    module.change(|state| {
        let alike = || private_key("key", b"n");
        state.objects = (0..60).map(|it| (100 + it, alike())).collect();
        state.takes = Some((Function::C_GetAttributeValue, Duration::from_millis(100)));
    });
    let start = Instant::now();
    assert_eq!(begin(&recovery, session, key), CkRv::DEVICE_ERROR);
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}
