//! Pulling from asynchronous code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use super::{Progress, PullError, PullOptions, Pulled, pull};
use crate::registry::Place;
use crate::store::Store;

/// As [`pull`], for asynchronous code: the work is done on a thread of tokio's for blocking work, and no lock is held across
/// an await.
///
/// Dropping the future cancels: the thread takes the transaction back and ends by itself soon after, or, where the commit
/// has begun, finishes it. Nothing is left half done either way.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use cstor_rs::pull::{PullOptions, pull_async};
/// use cstor_rs::registry::{Place, SystemFiles};
/// use cstor_rs::store::{Store, StoreOptions};
///
/// let store = Arc::new(Store::open(StoreOptions::new("/var/lib/containers/storage", "/run/containers/storage"))?);
/// let place = Place::find("quay.io/acme/os:2", &SystemFiles::of_process())?;
/// let pulled = pull_async(store, vec![place], PullOptions::default(), Arc::new(())).await?;
/// println!("{}", pulled[0].id);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`pull`]; [`PullError::Cancelled`] too where the runtime is shut down.
///
/// # Panics
///
/// Outside of a tokio runtime, as every function that needs one.
pub async fn pull_async(
    store: Arc<Store>,
    places: Vec<Place>,
    mut options: PullOptions,
    progress: Arc<dyn Progress + Send + Sync>,
) -> Result<Vec<Pulled>, PullError> {
    let network = options.registry.cancel.child_token();
    options.registry.cancel = network.clone();
    let cancelled = Arc::new(AtomicBool::new(false));
    // Lives as long as the future does.
    let _guard = CancelOnDrop { cancelled: cancelled.clone(), network };
    let work = tokio::task::spawn_blocking(move || pull(&store, &places, &options, &*progress, &cancelled));
    match work.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(PullError::Cancelled),
        },
    }
}

struct CancelOnDrop {
    cancelled: Arc<AtomicBool>,
    network: CancellationToken,
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Release);
        self.network.cancel();
    }
}
