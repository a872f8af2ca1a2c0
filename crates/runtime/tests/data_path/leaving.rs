//! Signals.

use std::cell::Cell;
use std::time::Duration;

use runtime::{Clock, DrainSwitch, Leaving, serve_signals};
use rustix::process::{Signal, getpid, kill_process};

use crate::rig::{until, within};

/// Command line page: the first SIGTERM or SIGINT drains, the second stops; SIGHUP does neither.
#[tokio::test]
async fn the_first_signal_drains_and_the_second_stops() {
    let (switch, drain) = DrainSwitch::new(Clock::start(Duration::from_secs(1)));
    let hangups = Cell::new(0);
    let serving = serve_signals(switch, Duration::from_mins(1), || hangups.set(hangups.get() + 1));
    let script = async {
        kill_process(getpid(), Signal::HUP).unwrap();
        until("the hangup", || hangups.get() == 1).await;
        assert_eq!(drain.state(), Leaving::No);
        kill_process(getpid(), Signal::INT).unwrap();
        within(drain.draining()).await;
        assert!(matches!(drain.state(), Leaving::Draining { .. }));
        kill_process(getpid(), Signal::TERM).unwrap();
        within(drain.stopping()).await;
        assert_eq!(drain.state(), Leaving::Stopping);
    };
    // The handlers are in place before the first signal: `serving` is polled first, and installs them.
    tokio::select! {
        biased;
        ended = serving => panic!("{ended:?}"),
        () = script => {}
    }
}
