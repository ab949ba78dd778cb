//! What must hold of a store whose command was killed, whatever call it was killed before.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::oracle::{self, Said};
use crate::tracer::{self, Traced};

/// Where one command is killed: a store of its own.
pub struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    /// In memory, where there is such a place and it keeps attributes: a kill leaves there what it leaves on any disk.
    pub fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let made = |base: &Path| tempfile::Builder::new().prefix("cstor-kill-").tempdir_in(base);
        let keeps =
            |temp: &tempfile::TempDir| rustix::fs::setxattr(temp.path(), "user.note", b"kept", rustix::fs::XattrFlags::empty()).is_ok();
        let temp = made(shm).ok().filter(keeps).unwrap_or_else(|| made(&std::env::temp_dir()).unwrap());
        Self { temp }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// The command on this store, in words.
    pub fn argv(&self, args: &[String]) -> Vec<String> {
        let [root, run] = ["root", "run"].map(|name| self.path(name).to_str().unwrap().to_owned());
        let head = [env!("CARGO_BIN_EXE_cstor-rs"), "--root", &root, "--runroot", &run].map(str::to_owned);
        head.into_iter().chain(args.iter().cloned()).collect()
    }

    pub fn ok(&self, args: &[&str]) -> Result<String, String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        run(&self.argv(&args)).map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn output(argv: &[String]) -> Output {
    Command::new(&argv[0]).args(&argv[1..]).output().unwrap()
}

fn run(argv: &[String]) -> Result<Output, String> {
    let output = output(argv);
    if output.status.success() { Ok(output) } else { Err(format!("{argv:?}: {output:?}")) }
}

/// What is killed, and what may come of it.
pub struct Subject<'a> {
    /// Makes the store as it is before.
    pub prepare: &'a dyn Fn(&Place),
    pub argv: &'a dyn Fn(&Place) -> Vec<String>,
    /// The transaction that is in the store or not: `argv` but for a recovery.
    pub again: &'a dyn Fn(&Place) -> Vec<String>,
    /// What that ends with where it was done already.
    pub again_code: i32,
    /// Whether the transaction must have happened in the end; `None` where the kill decides.
    pub ends: Option<bool>,
    pub before: Said,
    pub after: Said,
}

/// The bytes of each table, and of its lock file.
type Tokens = [(Option<Vec<u8>>, Option<Vec<u8>>); 2];

fn tokens(root: &Path) -> Tokens {
    ["overlay-layers/layers", "overlay-images/images"].map(|name| {
        let read = |suffix: &str| std::fs::read(root.join(format!("{name}.{suffix}"))).ok();
        (read("json"), read("lock"))
    })
}

/// Who has read a table under one token must see another once the table has changed.
fn tokens_moved(before: &Tokens, root: &Path) -> Result<(), String> {
    let empty = |bytes: &Option<Vec<u8>>| bytes.as_deref().is_none_or(|bytes| bytes == b"[]");
    let told = |then: &(Option<Vec<u8>>, Option<Vec<u8>>), now: &(Option<Vec<u8>>, Option<Vec<u8>>)| {
        then.0 == now.0 || (empty(&then.0) && empty(&now.0)) || (now.1.is_some() && then.1 != now.1)
    };
    let all = before.iter().zip(&tokens(root)).all(|(then, now)| told(then, now));
    if all { Ok(()) } else { Err("a table changed and its token did not".to_owned()) }
}

impl Subject<'_> {
    /// Runs it on a fresh store, kills it before change `at`, and judges what that left.
    pub fn killed(&self, at: usize) -> (Traced, Result<(), String>) {
        let place = Place::new();
        (self.prepare)(&place);
        let before = tokens(&place.root());
        let seen = tracer::trace(&(self.argv)(&place), Some(at)).unwrap();
        let result = self.judge(&place, &before, &seen);
        (seen, result)
    }

    fn judge(&self, place: &Place, before: &Tokens, seen: &Traced) -> Result<(), String> {
        let root = place.root();
        if seen.stderr.contains("panicked") || (seen.killed_before.is_none() && seen.code != Some(0)) {
            return Err(format!("it failed by itself: {seen:?}"));
        }
        let switched = self.readable(&root).map_err(|why| format!("unrecovered: {why}"))?;
        tokens_moved(before, &root)?;
        let journal = place.ok(&["journal", "--json"])?;
        let context = |why: String| format!("{why}; the journal was {journal}");
        place.ok(&["recover"]).map_err(context)?;
        tokens_moved(before, &root).map_err(context)?;
        let said = place.ok(&["recover"])?;
        if said != "nothing to recover\n" {
            return Err(context(format!("a second recovery finds {said}")));
        }
        let after = self.settled(&root).map_err(context)?;
        let acknowledged = seen.killed_before.is_none() || !seen.stdout.is_empty();
        if self.ends.is_none() && acknowledged && !after {
            return Err(context(format!("it said it was done, and the store is as before: {seen:?}")));
        }
        if switched && !after {
            return Err(context("was visible, and was taken back".to_owned()));
        }
        if self.ends.is_some_and(|end| end != after) {
            return Err(context(format!("recovered to the other end: after is {after}")));
        }
        let again = output(&(self.again)(place));
        let code = if after { self.again_code } else { 0 };
        if again.status.code() != Some(code) {
            return Err(format!("run again: {again:?}"));
        }
        match self.settled(&root) {
            Ok(true) => Ok(()),
            Ok(false) => Err("run again, and the store is as before".to_owned()),
            Err(why) => Err(format!("run again: {why}")),
        }
    }

    /// Whether the images are those of after: every one that is listed is whole, and no layer is another than it should be.
    fn readable(&self, root: &Path) -> Result<bool, String> {
        let seen = oracle::read(root)?;
        for (id, layer) in &seen.layers {
            if self.before.layers.get(id) != Some(layer) && self.after.layers.get(id) != Some(layer) {
                return Err(format!("layer {id} is neither as before nor as after: {layer:?}"));
            }
        }
        match seen.images {
            images if images == self.after.images => Ok(true),
            images if images == self.before.images => Ok(false),
            images => Err(format!("images are neither before nor after: {images:?}")),
        }
    }

    /// Whether the store is wholly as after; an error where it is neither that nor wholly as before, or something is left over.
    fn settled(&self, root: &Path) -> Result<bool, String> {
        let seen = oracle::read(root)?;
        oracle::data_agrees(&seen)?;
        let left = oracle::leftovers(root, &std::collections::BTreeSet::new());
        if !left.is_empty() {
            return Err(format!("left behind: {left:?}"));
        }
        match seen {
            seen if seen == self.after => Ok(true),
            seen if seen == self.before => Ok(false),
            seen => Err(format!("neither before nor after: {seen:?}")),
        }
    }
}
