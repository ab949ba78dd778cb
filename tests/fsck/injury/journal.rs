//! Injuries of the journal: a pull of ours that is SIGKILLed, in a process of its own.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use cstor_rs::fsio::{Hook, Op};
use cstor_rs::store::{Store, StoreOptions};

use super::Injury;
use super::target::Result;
use crate::fixture;

const ROW: &str = "journal with a dead transaction";

pub const ALL: &[Injury] = &[Injury::quick(ROW, "journal-killed-before-tables", &["journal-unfinished"], |t| kill(&t.root, "layers.json"))];

const CHILD: &str = "CSTOR_RS_FSCK_CHILD";

/// The image whose pull is killed.
pub const DOOMED: &str = "localhost/doomed:1";

/// SIGKILLs this process before a table of this name is renamed into its place.
struct KillBefore(String);

impl Hook for KillBefore {
    fn before(&self, op: &Op<'_>) -> std::io::Result<()> {
        if let Op::Rename(from, to) = op
            && to.name == Path::new(&self.0)
            && !from.name.to_string_lossy().ends_with(".scratch")
        {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
        }
        Ok(())
    }
}

/// What the re-executed binary does: `table root`.
pub fn child() -> Option<ExitCode> {
    let job = std::env::var(CHILD).ok()?;
    let (table, root) = job.split_once(' ')?;
    let root = Path::new(root);
    let options = StoreOptions::new(root, root.with_file_name("run")).hook(Arc::new(KillBefore(table.to_owned())));
    let image = fixture::image(DOOMED, vec![fixture::app("doomed")]);
    let done = fixture::pull(&Store::open(options).unwrap(), &[image]);
    eprintln!("was not killed: {done:?}");
    Some(ExitCode::FAILURE)
}

/// Kills a pull before this table is switched: before layers.json nothing is visible yet, before images.json the layers are.
pub fn kill(root: &Path, table: &str) -> Result<()> {
    let me = std::env::current_exe().map_err(|error| error.to_string())?;
    let job = format!("{table} {}", root.display());
    let status = Command::new(me).env(CHILD, job).stdout(Stdio::null()).status().map_err(|error| error.to_string())?;
    match std::os::unix::process::ExitStatusExt::signal(&status) {
        Some(9) => Ok(()),
        _ => Err(format!("the pull was not killed: {status}")),
    }
}
