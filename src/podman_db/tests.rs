//! Databases as podman makes them, and as nobody should.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;

use rustix::fs::{CWD, FileType, mknodat};

use super::*;

/// podman's own statements, as far as they matter.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS DBConfig(
        ID INTEGER PRIMARY KEY NOT NULL, SchemaVersion INTEGER NOT NULL, OS TEXT NOT NULL, StaticDir TEXT NOT NULL,
        TmpDir TEXT NOT NULL, GraphRoot TEXT NOT NULL, RunRoot TEXT NOT NULL, GraphDriver TEXT NOT NULL, VolumeDir TEXT NOT NULL,
        CHECK (ID IN (1)));
    CREATE TABLE IF NOT EXISTS IDNamespace(ID TEXT PRIMARY KEY NOT NULL);
    CREATE TABLE IF NOT EXISTS ContainerConfig(
        ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, PodID TEXT, JSON TEXT NOT NULL,
        FOREIGN KEY (ID) REFERENCES IDNamespace(ID) DEFERRABLE INITIALLY DEFERRED);";
const CONFIG: &str = "INSERT INTO DBConfig VALUES (1, 1, 'linux', '', '', '', '', 'overlay', '');";
const KEEPER: &str = "INSERT INTO IDNamespace VALUES ('aa'); INSERT INTO ContainerConfig VALUES ('aa', 'keeper', NULL, '{}');";

/// The clock decides nothing here.
const BUDGET: Budget = Budget { busy: Duration::ZERO, reading: Duration::from_secs(3600), steps: STEPS };

fn make(dir: &Path, sql: &[&str]) -> Connection {
    fs::create_dir_all(dir).unwrap();
    let db = Connection::open(dir.join(DB)).unwrap();
    db.execute_batch(&sql.concat()).unwrap();
    db
}

/// A directory with a database that says this, closed.
fn made(sql: &[&str]) -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    make(temp.path(), sql).close().unwrap();
    temp
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What was read of `aa` and `bb`: "id=name,..", or the kind of the reason. Nothing may have come or gone (D1).
fn told_with(dir: &Path, budget: Budget) -> String {
    let listed = |names: Vec<String>| names.into_iter().map(|n| (fs::symlink_metadata(dir.join(&n)).unwrap().len(), n)).collect::<Vec<_>>();
    let before = listed(names_in(dir));
    let told = match read(dir, &["aa", "bb"], budget) {
        Ok(known) => known.iter().map(|(id, name)| format!("{id}={name}")).collect::<Vec<_>>().join(","),
        Err(why) => format!("{why:?}").split([' ', '(']).next().unwrap().to_owned(),
    };
    assert_eq!(listed(names_in(dir)), before, "{told}");
    told
}

fn told(dir: &Path) -> String {
    told_with(dir, BUDGET)
}

#[test]
fn names_are_read_by_id() {
    let second = "INSERT INTO IDNamespace VALUES ('bb'); INSERT INTO ContainerConfig VALUES ('bb', 'b.b-2_', 'pod', '{}');";
    assert_eq!(told(made(&[SCHEMA, CONFIG, KEEPER, second]).path()), "aa=keeper,bb=b.b-2_");
    assert_eq!(told(made(&[SCHEMA, CONFIG, KEEPER]).path()), "aa=keeper");
    assert_eq!(told(made(&[SCHEMA, CONFIG]).path()), "");
}

#[test]
fn each_place_is_asked_and_a_bad_one_stops_no_other() {
    let temp = tempfile::tempdir().unwrap();
    let (graph, run) = (temp.path().join("graph"), temp.path().join("run"));
    let wait = Duration::ZERO;
    let none = container_names(&graph, &run, &["aa"], wait);
    assert_eq!((none.len(), none.unasked().len(), none.is_empty()), (0, 0, true));

    fs::create_dir_all(&graph).unwrap();
    fs::write(graph.join(DB), "no database").unwrap();
    make(&run, &[SCHEMA, CONFIG, KEEPER]).close().unwrap();
    let static_dir = "INSERT INTO ContainerConfig VALUES ('bb', 'second', NULL, '{}'), ('aa', 'late', NULL, '{}');";
    make(&graph.join("libpod"), &["PRAGMA foreign_keys=OFF;", SCHEMA, CONFIG, static_dir]).close().unwrap();
    let names = container_names(&graph, &run, &["aa", "bb", "cc"], wait);
    assert_eq!((names.get("aa"), names.get("bb"), names.get("cc"), names.len()), (Some("keeper"), Some("second"), None, 2));
    let [Unasked::NotSqlite { path }] = names.unasked() else { panic!("{names:?}") };
    assert_eq!(*path, graph.join(DB));
    assert_eq!(container_names(&graph, &run, &[], wait).unasked().len(), 0);
}

#[test]
fn a_store_of_boltdb_is_silent() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("libpod")).unwrap();
    fs::write(temp.path().join("libpod/bolt_state.db"), [0u8; 4096]).unwrap();
    let names = container_names(temp.path(), temp.path(), &["aa"], Duration::ZERO);
    assert_eq!((names.len(), names.unasked().len()), (0, 0));
}

#[test]
fn only_schema_version_1_is_believed() {
    for (config, expected) in [
        ("INSERT INTO DBConfig VALUES (1, 2, '', '', '', '', '', '', '');", "version 2"),
        ("INSERT INTO DBConfig VALUES (1, 'x', '', '', '', '', '', '', '');", "version of type Text"),
        ("", "version none"),
    ] {
        let temp = made(&[SCHEMA, config, KEEPER]);
        assert_eq!(told(temp.path()), "Version");
        let text = read(temp.path(), &["aa"], BUDGET).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn every_path_can_be_named_in_a_uri() {
    let temp = tempfile::tempdir().unwrap();
    for name in [&b"a b?mode=rwc#%41&x"[..], "ü".as_bytes(), b"\xff\n"] {
        let dir = temp.path().join(OsStr::from_bytes(name));
        make(&dir, &[SCHEMA, CONFIG, KEEPER]).close().unwrap();
        assert_eq!(told(&dir), "aa=keeper", "{dir:?}");
    }
    symlink(temp.path().join("ü"), temp.path().join("link")).unwrap();
    assert_eq!(told(&temp.path().join("link")), "aa=keeper");
}

#[test]
fn what_is_no_regular_file_is_not_opened() {
    let sound = made(&[SCHEMA, CONFIG, KEEPER]);
    let fifo = |path: PathBuf| mknodat(CWD, path, FileType::Fifo, 0o600.into(), 0).unwrap();
    let temp = tempfile::tempdir().unwrap();
    symlink(sound.path().join(DB), temp.path().join(DB)).unwrap();
    assert_eq!(told(temp.path()), "Disk");
    fs::remove_file(temp.path().join(DB)).unwrap();
    fifo(temp.path().join(DB));
    assert_eq!(told(temp.path()), "Disk");
    fs::remove_file(temp.path().join(DB)).unwrap();
    fs::create_dir(temp.path().join(DB)).unwrap();
    assert_eq!(told(temp.path()), "Disk");
    for suffix in ["-journal", "-wal", "-shm"] {
        let beside = sound.path().join(format!("{DB}{suffix}"));
        fifo(beside.clone());
        assert_eq!(told(sound.path()), "Beside", "{suffix}");
        fs::remove_file(beside).unwrap();
    }
}

#[test]
fn a_locked_database_gives_no_name_and_an_open_change_the_old_one() {
    let temp = tempfile::tempdir().unwrap();
    let writer = make(temp.path(), &[SCHEMA, CONFIG, KEEPER]);
    writer.execute_batch("BEGIN IMMEDIATE; UPDATE ContainerConfig SET Name = 'new';").unwrap();
    assert_eq!(told(temp.path()), "aa=keeper");
    writer.execute_batch("COMMIT; BEGIN EXCLUSIVE;").unwrap();
    assert_eq!(told(temp.path()), "Locked");
    writer.execute_batch("COMMIT;").unwrap();
    assert_eq!(told(temp.path()), "aa=new");
}

#[test]
fn a_change_that_was_cut_off_is_left_to_podman() {
    let temp = tempfile::tempdir().unwrap();
    let writer = make(temp.path(), &[SCHEMA, CONFIG, KEEPER]);
    // What does not fit into the cache goes to the file, so its journal is hot once its owner is gone.
    let much = "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100)
                INSERT INTO IDNamespace SELECT 'c' || i || hex(zeroblob(2000)) FROM n;";
    writer.execute_batch("PRAGMA cache_size = 2; BEGIN;").unwrap();
    writer.execute_batch(much).unwrap();
    let copy = tempfile::tempdir().unwrap();
    for name in names_in(temp.path()) {
        fs::copy(temp.path().join(&name), copy.path().join(&name)).unwrap();
    }
    assert_eq!(names_in(copy.path()), ["db.sql", "db.sql-journal"]);
    assert_eq!(told(copy.path()), "Unfinished");
}

#[test]
fn d1_a_wal_database_is_read_only_while_somebody_has_it_open() {
    let temp = tempfile::tempdir().unwrap();
    let writer = make(temp.path(), &["PRAGMA journal_mode = WAL;", SCHEMA, CONFIG, KEEPER]);
    assert_eq!(names_in(temp.path()), ["db.sql", "db.sql-shm", "db.sql-wal"]);
    assert_eq!(told(temp.path()), "aa=keeper");
    // What a crash leaves: the changes stand in the -wal alone.
    let copy = tempfile::tempdir().unwrap();
    for name in names_in(temp.path()) {
        fs::copy(temp.path().join(&name), copy.path().join(&name)).unwrap();
    }
    let shm = fs::read(copy.path().join("db.sql-shm")).unwrap();
    assert_eq!(told(copy.path()), "aa=keeper");
    assert_eq!(fs::read(copy.path().join("db.sql-shm")).unwrap(), shm);
    for missing in ["db.sql-shm", "db.sql-wal"] {
        let kept = fs::read(copy.path().join(missing)).unwrap();
        fs::remove_file(copy.path().join(missing)).unwrap();
        assert_eq!(told(copy.path()), "AtRest", "{missing}");
        fs::write(copy.path().join(missing), kept).unwrap();
    }
    writer.close().unwrap();
    assert_eq!(names_in(temp.path()), ["db.sql"]);
    assert_eq!(told(temp.path()), "AtRest");
}

#[test]
fn tables_that_are_none_are_not_asked() {
    let config = &SCHEMA[..SCHEMA.find("CREATE TABLE IF NOT EXISTS ContainerConfig").unwrap()];
    let endless = "CREATE VIEW ContainerConfig AS WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n)
                   SELECT 'aa' AS ID, 'x' AS Name FROM n WHERE i < 0;";
    for (table, expected) in [
        ("", "Shape"),
        (endless, "Shape"),
        ("CREATE VIRTUAL TABLE ContainerConfig USING fts5(ID, Name);", "Shape"),
        ("CREATE TABLE ContainerConfig(ID TEXT);", "Sqlite"),
        ("CREATE TABLE ContainerConfig(ID TEXT, Name TEXT AS (hex(zeroblob(500000000))));", "Sqlite"),
        ("CREATE TABLE ContainerConfig(ID TEXT, Name TEXT AS (ID LIKE '%a%a%a%a%a'));", "Sqlite"),
        // A trigger is never called by a read.
        (
            "CREATE TABLE ContainerConfig(ID TEXT, Name TEXT); INSERT INTO ContainerConfig VALUES ('aa', 'sound');
          CREATE TRIGGER t AFTER INSERT ON ContainerConfig BEGIN DELETE FROM DBConfig; END;",
            "aa=sound",
        ),
    ] {
        assert_eq!(told(made(&[config, CONFIG, table]).path()), expected, "{table}");
    }
}

#[test]
fn what_is_no_name_of_podman_is_no_name() {
    let long = "n".repeat(MAX_NAME_BYTES);
    for (value, expected) in [
        (format!("'{long}'"), format!("aa={long}")),
        (format!("'{long}n'"), String::new()),
        ("hex(zeroblob(15000000))".to_owned(), "Sqlite".to_owned()),
        ("'two' || char(10) || 'lines'".to_owned(), String::new()),
        ("char(27) || '[2J'".to_owned(), String::new()),
        ("'-rf'".to_owned(), String::new()),
        ("''".to_owned(), String::new()),
        ("x'ff41'".to_owned(), String::new()),
        ("CAST(x'ff41' AS TEXT)".to_owned(), String::new()),
        ("7".to_owned(), "aa=7".to_owned()),
    ] {
        let insert = format!("INSERT INTO IDNamespace VALUES ('aa'); INSERT INTO ContainerConfig VALUES ('aa', {value}, NULL, '{{}}');");
        assert_eq!(told(made(&[SCHEMA, CONFIG, &insert]).path()), expected, "{value}");
    }
    // What stands beside the name may be large.
    let json = "UPDATE ContainerConfig SET JSON = hex(zeroblob(3000000));";
    assert_eq!(told(made(&[SCHEMA, CONFIG, KEEPER, json]).path()), "aa=keeper");
}

#[test]
fn a_schema_without_end_is_refused() {
    let tables: String = (0..600).map(|n| format!("CREATE TABLE t{n}(a);")).collect();
    assert_eq!(told(made(&[SCHEMA, CONFIG, KEEPER, &tables]).path()), "Sqlite");
    let wide: String = (0..101).map(|n| format!(", c{n}")).collect();
    assert_eq!(told(made(&[SCHEMA, CONFIG, KEEPER, &format!("CREATE TABLE wide(a{wide});")]).path()), "Sqlite");
}

#[test]
fn a_read_that_takes_too_long_ends() {
    // Without an index each question looks at every row.
    let rows = "CREATE TABLE ContainerConfig(ID TEXT, Name TEXT);
                WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
                INSERT INTO ContainerConfig SELECT 'x' || i, 'x' FROM n;";
    let config = &SCHEMA[..SCHEMA.find("CREATE TABLE IF NOT EXISTS ContainerConfig").unwrap()];
    let temp = made(&[config, CONFIG, rows]);
    assert_eq!(told_with(temp.path(), Budget { steps: 50_000, ..BUDGET }), "TooLong");
    let sound = made(&[SCHEMA, CONFIG, KEEPER]);
    assert_eq!(told_with(sound.path(), Budget { steps: 50_000, ..BUDGET }), "aa=keeper");
}

#[test]
fn a_damaged_database_is_a_reason_or_no_name_or_the_right_one() {
    let sound = made(&["PRAGMA page_size = 512;", SCHEMA, CONFIG, KEEPER]);
    let bytes = fs::read(sound.path().join(DB)).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let mut seen = BTreeMap::new();
    let mut check = |bytes: &[u8]| {
        fs::write(temp.path().join(DB), bytes).unwrap();
        *seen.entry(told(temp.path())).or_insert(0) += 1;
    };
    for len in (0..bytes.len()).step_by(97) {
        check(&bytes[..len]);
    }
    for at in (0..bytes.len()).step_by(3) {
        let mut bad = bytes.clone();
        bad[at] ^= 0xff;
        check(&bad);
    }
    for start in (100..bytes.len()).step_by(64) {
        let mut bad = bytes.clone();
        bad[start..(start + 64).min(bytes.len())].fill(0xff);
        check(&bad);
    }
    // Which reason a byte gives is SQLite's affair; another name, or a file that is not opened for what it is, is none.
    let allowed = ["", "NotSqlite", "AtRest", "Shape", "Sqlite", "Unfinished", "Version", "aa=keeper"];
    assert_eq!(seen.keys().filter(|kind| !allowed.contains(&kind.as_str())).collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(["", "NotSqlite", "Sqlite", "aa=keeper"].iter().all(|kind| seen.contains_key(*kind)), "{seen:?}");
}
