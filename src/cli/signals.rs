//! The first SIGINT or SIGTERM takes the transaction back; a second one ends at once, which is safe too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio_util::sync::CancellationToken;

use super::out::tell;

static RECEIVED: AtomicU8 = AtomicU8::new(0);

/// The signal that was received, if any.
pub(super) fn received() -> Option<u8> {
    match RECEIVED.load(Ordering::Acquire) {
        0 => None,
        signal => Some(signal),
    }
}

/// What a signal sets off.
#[derive(Clone, Default)]
pub(super) struct Stop {
    /// True after the first signal.
    pub(super) flag: Arc<AtomicBool>,
    /// Ends what waits for the network.
    pub(super) network: CancellationToken,
}

/// Starts listening.
pub(super) fn listen() -> std::io::Result<Stop> {
    let stop = Stop::default();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let Stop { flag: seen, network } = stop.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if seen.swap(true, Ordering::AcqRel) {
                std::process::exit(128 + signal);
            }
            RECEIVED.store(u8::try_from(signal).unwrap_or(SIGTERM as u8), Ordering::Release);
            network.cancel();
            // Not "taken back": a commit that has begun goes on to its end.
            tell("stopping: what is not being committed yet is taken back; once more to end at once");
        }
    })?;
    Ok(stop)
}
