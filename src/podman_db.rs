//! podman's own names of containers, read from its database `db.sql` (spec section 12).
//!
//! A name only makes a message better, so nothing here stops the caller: what cannot be asked is a reason beside the names
//! that are known. No database is no reason: buildah's containers stand in none, BoltDB stores (`libpod/bolt_state.db`)
//! are not opened at all.
//!
//! The file is podman's and may be anything. SQLite gets to see it only as a regular file that is no link, with views
//! switched off, functions refused, every value, statement and schema bounded, and an end set by time and by steps.
//!
//! Invariants:
//! - D1: nothing is created, changed or removed beside `db.sql`. A database in WAL mode is opened only where its `-wal` and
//!   `-shm` are there, and the `-shm` read only: SQLite would make both. `immutable=1` would read past podman's changes.
//! - D2: all names are of one moment: one short read transaction, and none is taken from a read that failed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, ffi};

use crate::fsio::{self, Dir, Kind, Seam, optional};

const DB: &str = "db.sql";
/// The one version of podman's schema that is known.
const SCHEMA_VERSION: i64 = 1;
/// SQLite's busy timeout is in milliseconds of 32 bits; nobody waits longer than this for a name.
const MAX_BUSY: Duration = Duration::from_secs(60);
/// How long reading may take beside waiting.
const READING: Duration = Duration::from_secs(1);
/// How many instructions of SQLite's machine reading may take: the schema needs some 500, each container 20.
const STEPS: u64 = 20_000_000;
/// How many instructions between two looks at the clock.
const STEPS_PER_LOOK: i32 = 1000;
/// podman sets no limit; a name longer than this is not worth a message.
const MAX_NAME_BYTES: usize = 1024;

/// Why a database was not asked, or not to its end.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum Unasked {
    #[error(transparent)]
    Disk(#[from] fsio::Error),
    #[error("{} is not a regular file, which SQLite would open all the same; remove it", path.display())]
    Beside { path: PathBuf },
    #[error("{} is not a SQLite database; podman cannot read it either", path.display())]
    NotSqlite { path: PathBuf },
    #[error("{} is in WAL mode and nobody has it open: to read it would make files beside it", path.display())]
    AtRest { path: PathBuf },
    #[error("{} holds a change that was cut off; any podman command takes it back", path.display())]
    Unfinished { path: PathBuf },
    #[error("{} has schema version {found}, and only version {SCHEMA_VERSION} is known here", path.display())]
    Version { path: PathBuf, found: String },
    #[error("{} has no tables ContainerConfig and DBConfig as podman makes them", path.display())]
    Shape { path: PathBuf },
    #[error("{} stays locked, by a podman that is writing; try again", path.display())]
    Locked { path: PathBuf },
    #[error("{} takes too long to read", path.display())]
    TooLong { path: PathBuf },
    #[error("{} cannot be read as a database", path.display())]
    Sqlite { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
}

/// The names that podman knows, by container id, and why there may be more.
#[derive(Debug, Default)]
pub struct Names {
    known: BTreeMap<String, String>,
    unasked: Vec<Unasked>,
}

impl Names {
    /// podman's name of the container with this id.
    pub fn get(&self, id: &str) -> Option<&str> {
        self.known.get(id).map(String::as_str)
    }

    /// How many names are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether no name is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// The databases that are there and could not be asked.
    pub fn unasked(&self) -> &[Unasked] {
        &self.unasked
    }
}

/// How much a read may cost.
#[derive(Debug, Clone, Copy)]
struct Budget {
    busy: Duration,
    reading: Duration,
    steps: u64,
}

/// What podman calls these containers: asks `<graphroot>/db.sql`, `<runroot>/db.sql` (transient stores) and
/// `<graphroot>/libpod/db.sql` (podman's static directory); each waits at most `busy` for a podman that is writing.
///
/// One call at a time runs in a process. A process that itself holds such a database open through SQLite loses the locks of
/// that handle here, as POSIX locks go when any descriptor of the file is closed.
pub fn container_names(graphroot: &Path, runroot: &Path, ids: &[&str], busy: Duration) -> Names {
    let budget = Budget { busy: busy.min(MAX_BUSY), reading: READING, steps: STEPS };
    let mut names = Names::default();
    if ids.is_empty() {
        return names;
    }
    for dir in [graphroot.to_owned(), runroot.to_owned(), graphroot.join("libpod")] {
        match read(&dir, ids, budget) {
            Ok(known) => known.into_iter().for_each(|(id, name)| {
                names.known.entry(id).or_insert(name);
            }),
            Err(why) => names.unasked.push(why),
        }
    }
    names
}

/// The names in `db.sql` of one directory; none where it is missing.
fn read(dir: &Path, ids: &[&str], budget: Budget) -> Result<BTreeMap<String, String>, Unasked> {
    // The header is read through a descriptor of ours, and its close takes the locks of a SQLite handle of this process.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);

    let Some(path) = find(dir)? else { return Ok(BTreeMap::new()) };
    ask(&path, ids, budget).map_err(|source| match (&source, source.sqlite_error()) {
        (_, Some(e)) if e.extended_code == ffi::SQLITE_READONLY_ROLLBACK => Unasked::Unfinished { path: path.clone() },
        (_, Some(e)) if matches!(e.code, ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Unasked::Locked { path: path.clone() },
        (_, Some(e)) if e.code == ErrorCode::OperationInterrupted => Unasked::TooLong { path: path.clone() },
        _ => Unasked::Sqlite { path: path.clone(), source: Box::new(source) },
    })?
}

/// The whole path of the database in `dir`, free of links, once it is known that SQLite may open it (D1).
fn find(dir: &Path) -> Result<Option<PathBuf>, Unasked> {
    // NOFOLLOW makes SQLite refuse a link anywhere in the path, and that to a store is the user's affair.
    let whole = std::fs::canonicalize(dir).map_err(|source| fsio::Error { call: "realpath", path: dir.to_owned(), source });
    let Some(whole) = optional(whole)? else { return Ok(None) };
    let dir = Dir::open(&whole, Seam::default())?;
    let Some(file) = optional(dir.file(DB))? else { return Ok(None) };
    let path = file.path();

    let mut header = [0u8; 100];
    let read = file.read_at(0, &mut header)?;
    drop(file);
    let wal = match header.get(18..20) {
        Some([1, 1]) => false,
        Some([2, 2]) => true,
        _ => return Err(Unasked::NotSqlite { path }),
    };
    if read < header.len() || !header.starts_with(b"SQLite format 3\0") {
        return Err(Unasked::NotSqlite { path });
    }
    for suffix in ["-journal", "-wal", "-shm"] {
        let name = format!("{DB}{suffix}");
        match dir.meta(&name)?.map(|meta| meta.kind) {
            // SQLite waits for ever at a fifo.
            Some(kind) if kind != Kind::File => return Err(Unasked::Beside { path: dir.path().join(name) }),
            None if wal && suffix != "-journal" => return Err(Unasked::AtRest { path }),
            _ => {}
        }
    }
    Ok(Some(path))
}

/// The URI of a file that is only read.
fn uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(*byte)),
            // Writing to a String does not fail.
            _ => write!(uri, "%{byte:02X}").unwrap_or_default(),
        }
    }
    uri + "?mode=ro&readonly_shm=1&cache=private"
}

/// A connection on which a hostile database can do little.
fn open(path: &Path, budget: Budget) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(uri(path), flags)?;
    connection.busy_timeout(budget.busy)?;
    let (end, mut left) = (Instant::now() + budget.busy + budget.reading, budget.steps);
    let spent = move || {
        left = left.saturating_sub(STEPS_PER_LOOK.unsigned_abs().into());
        left == 0 || Instant::now() >= end
    };
    connection.progress_handler(STEPS_PER_LOOK, Some(spent))?;
    let off = [
        DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA,
        DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW,
        DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
        DbConfig::SQLITE_DBCONFIG_WRITABLE_SCHEMA,
    ];
    for config in off {
        connection.set_db_config(config, false)?;
    }
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    let limits = [
        (Limit::SQLITE_LIMIT_LENGTH, 16 << 20),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 16 << 10),
        (Limit::SQLITE_LIMIT_COLUMN, 100),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 20),
        // podman has 12 tables with some 15 indices.
        (Limit::SQLITE_LIMIT_SCHEMA, 500),
        // No function can be called: none in a generated column, an index or a check of a hostile schema.
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 0),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ];
    for (limit, value) in limits {
        connection.set_limit(limit, value)?;
    }
    for pragma in ["query_only", "cell_size_check"] {
        connection.pragma_update(None, pragma, true)?;
    }
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// Asks for all names in one transaction (D2). The inner error is what the database says of itself.
fn ask(path: &Path, ids: &[&str], budget: Budget) -> rusqlite::Result<Result<BTreeMap<String, String>, Unasked>> {
    let mut connection = open(path, budget)?;
    let read = connection.transaction()?;
    if !is_podmans(&read)? {
        return Ok(Err(Unasked::Shape { path: path.to_owned() }));
    }
    if let Some(found) = foreign_version(&read)? {
        return Ok(Err(Unasked::Version { path: path.to_owned(), found }));
    }
    let mut known = BTreeMap::new();
    let mut name_of = read.prepare("SELECT Name FROM ContainerConfig WHERE ID = ?1")?;
    for id in ids {
        let name = name_of.query_row([id], |row| Ok(row.get_ref(0)?.as_str().ok().and_then(plain))).optional()?;
        if let Some(name) = name.flatten() {
            known.insert((*id).to_owned(), name);
        }
    }
    Ok(Ok(known))
}

/// A name, if podman could have given it.
fn plain(name: &str) -> Option<String> {
    let char = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    (first && name.len() <= MAX_NAME_BYTES && name.bytes().all(char)).then(|| name.to_owned())
}

/// Whether the tables that are read are tables: a virtual one runs code of its module, and stands in the schema as a table.
fn is_podmans(read: &Connection) -> rusqlite::Result<bool> {
    let mut schema = read.prepare("SELECT sql FROM sqlite_schema WHERE name COLLATE NOCASE IN ('ContainerConfig', 'DBConfig')")?;
    let mut rows = schema.query([])?;
    let mut tables = 0;
    while let Some(row) = rows.next()? {
        // As SQLite writes down every statement that makes a table, however it was typed.
        if !row.get_ref(0)?.as_bytes().is_ok_and(|sql| sql.starts_with(b"CREATE TABLE ")) {
            return Ok(false);
        }
        tables += 1;
    }
    Ok(tables == 2)
}

/// The schema version, if it is not the known one.
fn foreign_version(read: &Connection) -> rusqlite::Result<Option<String>> {
    let version = read.query_row("SELECT SchemaVersion FROM DBConfig", [], |row| {
        Ok(match row.get_ref(0)? {
            rusqlite::types::ValueRef::Integer(SCHEMA_VERSION) => None,
            rusqlite::types::ValueRef::Integer(other) => Some(other.to_string()),
            other => Some(format!("of type {}", other.data_type())),
        })
    });
    // A podman that was stopped at its very first start leaves the table empty.
    Ok(version.optional()?.unwrap_or_else(|| Some("none".to_owned())))
}

#[cfg(test)]
mod tests;
