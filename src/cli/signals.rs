//! The first SIGINT or SIGTERM takes the transaction back; a second one ends at once, which is safe too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static RECEIVED: AtomicU8 = AtomicU8::new(0);

/// The signal that was received, if any.
pub(super) fn received() -> Option<u8> {
    match RECEIVED.load(Ordering::Acquire) {
        0 => None,
        signal => Some(signal),
    }
}

/// Starts listening; the flag becomes true with the first signal.
pub(super) fn listen() -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let seen = Arc::clone(&flag);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            if seen.swap(true, Ordering::AcqRel) {
                std::process::exit(128 + signal);
            }
            RECEIVED.store(u8::try_from(signal).unwrap_or(SIGTERM as u8), Ordering::Release);
            eprintln!("taking the transaction back; once more to end at once");
        }
    })?;
    Ok(flag)
}
