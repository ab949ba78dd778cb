//! The options of every command that pulls.

use std::path::PathBuf;
use std::time::Duration;

use cstor_rs::pull::PullOptions;
use cstor_rs::registry::{Login, Options, Platform};
use cstor_rs::txn::{SyncMode, TxnOptions};

use super::exit;
use super::values::duration;

/// How a registry is asked
#[derive(clap::Args)]
pub(super) struct Access {
    /// Verify the registry's certificate; false allows any, and plain http [default: true, unless registries.conf calls the
    /// registry insecure]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    tls_verify: Option<bool>,
    /// Read credentials from this file only
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Use these credentials
    #[arg(long, value_name = "USER:PASSWORD")]
    creds: Option<String>,
}

impl Access {
    /// Its options.
    pub(super) fn options(&self) -> Result<Options, exit::Usage> {
        // Not by clap, which would print them.
        let login = match self.creds.as_deref() {
            Some(text) => Some(Login::parse(text).ok_or(exit::Usage("--creds wants USER:PASSWORD"))?),
            None => None,
        };
        Ok(Options { tls_verify: self.tls_verify, login, authfile: self.authfile.clone(), ..Options::default() })
    }
}

/// How images are fetched and brought to the medium
#[derive(clap::Args)]
pub(super) struct Network {
    #[command(flatten)]
    access: Access,
    /// Choose this image of an index, and refuse an image for another platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Fetch and unpack this many layers at once
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    jobs: u8,
    /// Retry a failed request this often
    #[arg(long, value_name = "N", default_value_t = 3)]
    retry: u32,
    /// Wait this long before the first retry: seconds, or a time like 500ms or 1m30s
    #[arg(long, value_name = "TIME", default_value = "1", allow_negative_numbers = true, value_parser = duration)]
    retry_delay: Duration,
    /// Give a request up when nothing has come for this many seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", allow_negative_numbers = true, value_parser = duration)]
    idle_timeout: Duration,
    /// Refuse layers that unpack to more than this many bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 40)]
    max_layer_size: u64,
    /// Bring contents to the medium by syncfs, file by file, or not at all
    #[arg(long, value_enum, default_value_t = Sync::Fs)]
    sync: Sync,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Sync {
    Fs,
    Files,
    None,
}

impl Network {
    /// How to pull.
    pub(super) fn options(&self) -> Result<PullOptions, exit::Usage> {
        Ok(PullOptions {
            registry: Options { retries: self.retry, retry_delay: self.retry_delay, stall: self.idle_timeout, ..self.access.options()? },
            platform: self.platform.clone(),
            jobs: self.jobs.into(),
            txn: TxnOptions {
                sync: match self.sync {
                    Sync::Fs => SyncMode::Filesystem,
                    Sync::Files => SyncMode::Files,
                    Sync::None => SyncMode::None,
                },
                max_layer_bytes: self.max_layer_size,
                ..TxnOptions::default()
            },
            ..PullOptions::default()
        })
    }
}
