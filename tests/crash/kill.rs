//! Tier kill(k): a process of its own is SIGKILLed before its k-th change: nothing of its memory, no Drop, no unwinding.

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::hooks::Kill;
use crate::stop::{check_after, reopen};
use crate::work::{Expected, Work, temp};

const CHILD: &str = "CSTOR_RS_CRASH_CHILD";

/// What the re-executed binary does: `work k directory`.
pub fn child() -> Option<ExitCode> {
    let text = std::env::var(CHILD).ok()?;
    let mut parts = text.splitn(3, ' ');
    let (name, at, root) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    let work = Work::named(name);
    Some(match work.run(Path::new(root), Some(Kill::at(at))) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    })
}

pub fn everywhere(work: &Work) {
    let expected = Expected::of(work);
    for k in 0.. {
        let temp = temp();
        work.setup(temp.path());
        let status = Command::new(std::env::current_exe().unwrap())
            .env(CHILD, format!("{} {k} {}", work.name, temp.path().display()))
            .status()
            .unwrap();
        let what = format!("{} killed before change {k}", work.name);
        if status.success() {
            println!("{}: {k} changes", work.name);
            assert!(k > work.least(40), "{k} changes are too few to be true");
            break;
        }
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{what}: ended otherwise");
        let switched = expected.readable(&temp.path().join("root")).unwrap_or_else(|why| panic!("{what}, unrecovered: {why}"));
        reopen(temp.path(), &what);
        let after = check_after(&expected, temp.path(), false, &what);
        assert!(after || !switched, "{what}: was visible, and was taken back");
    }
}
