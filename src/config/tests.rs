use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use super::*;

/// A machine below a temporary directory.
struct Machine {
    dir: tempfile::TempDir,
    vars: Vec<(String, OsString)>,
    uid: u32,
}

impl Machine {
    fn new(uid: u32) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), vars: Vec::new(), uid }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    fn file(self, path: &str, text: &str) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn var(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.vars.push((name.into(), value.into()));
        self
    }

    /// A variable with a path of this machine.
    fn var_path(self, name: &str, path: &str) -> Self {
        let value = self.path(path).to_str().unwrap().to_owned();
        self.var(name, value)
    }

    fn load_with(&self, overrides: &Overrides) -> Result<Config, ConfigError> {
        Config::load(&Environment::new(self.uid, self.vars.clone(), self.dir.path()), overrides)
    }

    fn load(&self) -> Result<Config, ConfigError> {
        self.load_with(&Overrides::default())
    }

    fn roots(&self) -> (String, String) {
        let config = self.load().unwrap();
        (config.graphroot.to_str().unwrap().to_owned(), config.runroot.to_str().unwrap().to_owned())
    }
}

const DEBIAN: &str = r#"
[storage]
driver = "overlay"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
[storage.options]
additionalimagestores = [
]
pull_options = {enable_partial_images = "false", use_hard_links = "false", ostree_repos=""}
[storage.options.overlay]
mountopt = "nodev"
[storage.options.thinpool]
"#;

fn pair(a: &str, b: &str) -> (String, String) {
    (a.into(), b.into())
}

#[test]
fn root_has_the_defaults_of_the_system() {
    let want = pair(ROOT_GRAPHROOT, ROOT_RUNROOT);
    assert_eq!(Machine::new(0).roots(), want);
    let debian = Machine::new(0).file("usr/share/containers/storage.conf", DEBIAN);
    assert_eq!(debian.roots(), want);
    assert_eq!(debian.load().unwrap().files, [debian.path("usr/share/containers/storage.conf")]);
}

#[test]
fn a_user_has_the_defaults_of_a_user_even_where_the_system_sets_those_of_root() {
    let user = |m: Machine| m.var("HOME", "/no/home").var("XDG_RUNTIME_DIR", "/no/run");
    let want = pair("/no/home/.local/share/containers/storage", "/no/run/containers");
    assert_eq!(user(Machine::new(1000)).roots(), want);
    assert_eq!(user(Machine::new(1000).file("usr/share/containers/storage.conf", DEBIAN)).roots(), want);
    assert_eq!(user(Machine::new(0).var("_CONTAINERS_ROOTLESS_UID", "1000")).roots(), want);
    let data = user(Machine::new(1000)).var("XDG_DATA_HOME", "/no/data");
    assert_eq!(data.roots().0, "/no/data/containers/storage");
    let bare = Machine::new(1000).var("HOME", "/no/home").var("TMPDIR", "/no/tmp");
    assert_eq!(bare.roots().1, "/no/tmp/storage-run-1000/containers");
    assert!(matches!(Machine::new(1000).load(), Err(ConfigError::NoHome { .. })));
    // What the user says is meant, also if it is root's default.
    let own = user(Machine::new(1000)).file("cfg/containers/storage.conf", DEBIAN).var_path("XDG_CONFIG_HOME", "cfg");
    assert_eq!(own.roots(), pair(ROOT_GRAPHROOT, ROOT_RUNROOT));
}

#[test]
fn rootless_storage_path_yields_to_graphroot_and_is_not_for_root() {
    let conf = "[storage]\nrunroot = \"/r/$UID\"\nrootless_storage_path = \"/s/$UID/${USER}/x/../$USER\"\n";
    let machine = |uid| Machine::new(uid).file("etc/containers/storage.conf", conf).var("USER", "ann");
    assert_eq!(machine(7).roots(), pair("/s/7/ann/ann", "/r/7"));
    assert_eq!(machine(0).roots(), pair(ROOT_GRAPHROOT, "/r/0"));
    let both = Machine::new(7).file("etc/containers/storage.conf", &format!("{conf}graphroot = \"/g\"\n")).var("USER", "ann");
    assert_eq!(both.roots().0, "/g");
}

#[test]
fn one_main_file_then_drop_ins_by_name_then_the_override() {
    let graph = |path: &str| format!("[storage]\ngraphroot = \"{path}\"\n");
    let mut machine = Machine::new(0)
        .file("usr/share/containers/storage.conf", "[storage]\ngraphroot = \"/share\"\nrunroot = \"/share-run\"\n")
        .var_path("XDG_CONFIG_HOME", "cfg");
    assert_eq!(machine.roots(), pair("/share", "/share-run"));
    machine = machine.file("etc/containers/storage.conf", &graph("/etc-main"));
    assert_eq!(machine.roots(), pair("/etc-main", ROOT_RUNROOT));
    machine = machine.file("cfg/containers/storage.conf", &graph("/user"));
    assert_eq!(machine.roots().0, "/user");
    machine = machine.file("usr/share/containers/storage.conf.d/50.conf", &graph("/share-50"));
    assert_eq!(machine.roots().0, "/share-50");
    machine = machine.file("etc/containers/storage.rootful.conf.d/40.conf", &graph("/etc-40"));
    machine = machine.file("etc/containers/storage.rootless.conf.d/99.conf", &graph("/not-for-root"));
    machine = machine.file("etc/containers/storage.conf.d/99.txt", "not toml");
    assert_eq!(machine.roots().0, "/share-50");
    machine = machine.file("etc/containers/storage.conf.d/50.conf", &graph("/etc-50"));
    assert_eq!(machine.roots().0, "/etc-50");
    machine = machine.file("over.conf", &graph("/override")).var_path("CONTAINERS_STORAGE_CONF_OVERRIDE", "over.conf");
    assert_eq!(machine.roots().0, "/override");
    machine = machine.file("only.conf", "[storage]\nrunroot = \"/only-run\"\n").var_path("CONTAINERS_STORAGE_CONF", "only.conf");
    assert_eq!(machine.roots(), pair("/override", "/only-run"));
    assert_eq!(machine.load().unwrap().files, [machine.path("only.conf"), machine.path("over.conf")]);
    let user = Machine::new(5)
        .var("HOME", "/no/home")
        .file("etc/containers/storage.rootless.conf.d/1.conf", &graph("/all"))
        .file("etc/containers/storage.rootless.conf.d/5/2.conf", &graph("/five"))
        .file("etc/containers/storage.rootless.conf.d/6/3.conf", &graph("/six"));
    assert_eq!(user.roots().0, "/five");
}

#[test]
fn whatever_makes_another_store_is_refused_by_name() {
    for (text, key) in [
        ("[storage]\ndriver = \"btrfs\"", "storage.driver"),
        ("[storage]\ndriver = \"vfs\"", "storage.driver"),
        ("[storage]\ndriver_priority = [\"zfs\"]", "storage.driver_priority"),
        ("[storage]\nimagestore = \"/x\"", "storage.imagestore"),
        ("[storage]\ntransient_store = true", "storage.transient_store"),
        ("[storage.options]\nadditionalimagestores = [\"/x\"]", "storage.options.additionalimagestores"),
        ("[storage.options]\nadditionallayerstores = [\"/x:ref\", {append=true}]", "storage.options.additionallayerstores"),
        ("[storage.options]\nmount_program = \"/usr/bin/fuse-overlayfs\"", "storage.options.mount_program"),
        ("[storage.options.overlay]\nmount_program = \"x\"", "storage.options.overlay.mount_program"),
        ("[storage.options]\nforce_mask = 0o755", "storage.options.force_mask"),
        ("[storage.options.overlay]\nforce_mask = \"shared\"", "storage.options.overlay.force_mask"),
        ("[storage.options]\nignore_chown_errors = \"true\"", "storage.options.ignore_chown_errors"),
        ("[storage.options.overlay]\nignore_chown_errors = \"1\"", "storage.options.overlay.ignore_chown_errors"),
        ("[storage.options]\nremap-uids = \"0:1668442479:65536\"", "storage.options.remap-uids"),
        ("[storage.options]\nremap-user = \"containers\"", "storage.options.remap-user"),
        ("[storage.options.overlay]\nuse_composefs = \"true\"", "storage.options.overlay.use_composefs"),
        ("[storage.options]\nsize = \"1G\"", "storage.options.size"),
        ("[storage.options.overlay]\ninodes = \"10\"", "storage.options.overlay.inodes"),
    ] {
        let machine = Machine::new(0).file("etc/containers/storage.conf.d/x.conf", text);
        match machine.load().unwrap_err() {
            ConfigError::Unsupported { key: got, origin, .. } => {
                assert_eq!(got, key);
                assert_eq!(origin, Origin::File(machine.path("etc/containers/storage.conf.d/x.conf")));
            }
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn whatever_changes_nothing_here_is_ignored() {
    let machine = Machine::new(0).file(
        "etc/containers/storage.conf",
        r#"
        unknown = 1
        [storage]
        driver = "overlay2"
        driver_priority = ["btrfs", "overlay"]
        transient_store = false
        imagestore = ""
        [storage.options]
        additionalimagestores = []
        additionallayerstores = ["", {append=true}]
        ignore_chown_errors = "false"
        force_mask = 0
        size = ""
        mountopt = "nodev,metacopy=on"
        root-auto-userns-user = "storage"
        auto-userns-min-size = 1024
        disable-volatile = true
        remap-uids = ""
        [storage.options.pull_options]
        enable_partial_images = "true"
        [storage.options.overlay]
        use_composefs = "false"
        sync = "filesystem"
        skip_mount_home = "true"
        [storage.options.btrfs]
        size = "1G"
        "#,
    );
    assert_eq!(machine.roots(), pair(ROOT_GRAPHROOT, ROOT_RUNROOT));
}

#[test]
fn lists_of_drop_ins_replace_or_append() {
    let base = "[storage.options]\nadditionalimagestores = [\"/x\"]";
    let with = |text: &str| {
        let machine = Machine::new(0).file("etc/containers/storage.conf", base).file("etc/containers/storage.conf.d/1.conf", text);
        machine.load().map(drop).map_err(|e| e.to_string().contains("\"/x\""))
    };
    assert_eq!(with("[storage.options]\nadditionalimagestores = []"), Ok(()));
    assert_eq!(with("[storage.options]\nadditionalimagestores = [{append=true}]"), Err(true));
    assert_eq!(with("[storage.options]\nadditionalimagestores = [\"/y\", {append=true}]"), Err(true));
    assert_eq!(with("[storage.options]\nadditionalimagestores = [\"/y\"]"), Err(false));
}

#[test]
fn variables_beat_files() {
    let vfs = || Machine::new(0).file("etc/containers/storage.conf", "[storage]\ndriver = \"vfs\"\n[storage.options]\nsize = \"1G\"\n");
    assert!(vfs().var("STORAGE_DRIVER", "overlay").load().unwrap_err().to_string().contains("storage.options.size"));
    assert!(vfs().var("STORAGE_DRIVER", "overlay").var("STORAGE_OPTS", "").load().is_ok());
    assert!(vfs().var("STORAGE_DRIVER", "").var("STORAGE_OPTS", "").load().unwrap_err().to_string().contains("storage.driver"));
    let zfs = Machine::new(0).var("STORAGE_DRIVER", "zfs").load().unwrap_err();
    assert!(zfs.to_string().starts_with("environment variable STORAGE_DRIVER sets storage.driver to zfs: "), "{zfs}");
    for (opts, refused) in [
        ("overlay.mountopt=nodev,overlay.skip_mount_home=true", None),
        ("overlay.ignore_chown_errors=false,,", None),
        ("overlay.imagestore=/x", Some("overlay.imagestore")),
        ("a=b, .mount_program=/bin/x", Some(".mount_program")),
        ("overlay2.SIZE=1", Some("overlay2.SIZE")),
        ("additionallayerstore=/x", Some("additionallayerstore")),
        ("overlay.use_composefs=true", Some("overlay.use_composefs")),
    ] {
        match (Machine::new(0).var("STORAGE_OPTS", opts).load(), refused) {
            (Ok(_), None) => {}
            (Err(ConfigError::Unsupported { key, origin: Origin::Variable("STORAGE_OPTS"), .. }), Some(want)) => assert_eq!(key, want),
            (other, _) => panic!("{opts}: {other:?}"),
        }
    }
}

#[test]
fn root_on_the_command_line_drops_options_but_not_the_driver() {
    let root = Overrides { root: Some("/no/r/../s".into()), runroot: None, additional: false };
    let machine = |text: &str| Machine::new(0).file("etc/containers/storage.conf", text).var("STORAGE_OPTS", "overlay.size=1");
    let config = machine("[storage]\nrunroot = \"/no/run\"\n[storage.options]\nmount_program = \"x\"").load_with(&root).unwrap();
    assert_eq!((config.graphroot, config.runroot), ("/no/s".into(), "/no/run".into()));
    for text in ["[storage]\ndriver = \"vfs\"", "[storage]\nimagestore = \"/x\"", "[storage]\ntransient_store = true"] {
        assert!(matches!(machine(text).load_with(&root), Err(ConfigError::Unsupported { .. })), "{text}");
    }
    let both = Overrides { root: Some("/no/s".into()), runroot: Some("/no/t".into()), additional: false };
    assert_eq!(Machine::new(1000).load_with(&both).unwrap().runroot, Path::new("/no/t"), "no home is needed");
}

#[test]
fn what_cannot_be_read_or_understood_is_an_error_that_names_its_file() {
    for (text, part) in [
        ("[storage", "not valid TOML"),
        ("[storage]\ngraphroot = 7", "storage.graphroot is not a string"),
        ("[storage]\ngraphroot = \"var\"", "an absolute path is needed"),
        ("[storage]\nrunroot = \"/a/$NOT_SET/b\"", "names $NOT_SET, which is not set"),
        ("[storage]\nrunroot = \"/a/${\"", "names $, which is not set"),
        ("[storage]\ndriver_priority = 1", "storage.driver_priority is not a list"),
        ("[storage]\ndriver = []", "storage.driver is not a string"),
        ("[storage]\ntransient_store = \"maybe\"", "sets storage.transient_store"),
    ] {
        let machine = Machine::new(0).file("etc/containers/storage.conf", text);
        let message = machine.load().unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("etc/containers/storage.conf"), "{text}: {message}");
    }
    let missing = Machine::new(0).var("CONTAINERS_STORAGE_CONF", "/no/such.conf").load().unwrap_err();
    assert_eq!(missing.to_string(), "cannot read /no/such.conf");
    let large = Machine::new(0).file("etc/containers/storage.conf", &"#".repeat(2 << 20));
    assert!(matches!(large.load(), Err(ConfigError::Read { .. })));
    let nested = format!("x = {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(Machine::new(0).file("etc/containers/storage.conf", &nested).load(), Err(ConfigError::Syntax { .. })));
    assert!(matches!(Machine::new(0).file("etc/containers/storage.conf/x", "").load(), Err(ConfigError::Read { .. })));
}

/// A variable that is not text is used as the path it is, or refused; passed over it would mean another store.
#[test]
fn variables_that_are_not_text_are_used_or_refused() {
    let odd = |text: &str| OsString::from_vec([text.as_bytes(), b"\xff"].concat());
    let named = |m: Machine, name: &str| {
        let conf = m.path("conf").into_os_string();
        let conf = OsString::from_vec([conf.into_vec(), b"\xff".to_vec()].concat());
        fs::write(&conf, format!("[storage]\ngraphroot = \"{}\"\nrunroot = \"/r\"\n", m.path("store").display())).unwrap();
        m.var(name, conf)
    };
    for name in ["CONTAINERS_STORAGE_CONF", "CONTAINERS_STORAGE_CONF_OVERRIDE"] {
        let machine = named(Machine::new(0), name);
        assert_eq!(machine.load().unwrap().graphroot, machine.path("store"), "{name}");
    }
    let user = |name: &str, value: &str| Machine::new(1000).var("HOME", "/no/home").var("XDG_RUNTIME_DIR", "/no/run").var(name, odd(value));
    let roots = |m: Machine| m.load().map(|config| (config.graphroot.into_os_string(), config.runroot.into_os_string())).unwrap();
    let at = |text: &str, below: &str| OsString::from_vec([text.as_bytes(), b"\xff", below.as_bytes()].concat());
    assert_eq!(roots(user("XDG_DATA_HOME", "/no/data")).0, at("/no/data", "/containers/storage"));
    assert_eq!(roots(user("HOME", "/no/h")).0, at("/no/h", "/.local/share/containers/storage"));
    assert_eq!(roots(user("XDG_RUNTIME_DIR", "/no/r")).1, at("/no/r", "/containers"));
    let conf = "[storage]\ngraphroot = \"/$DIR/store\"\n";
    assert_eq!(roots(user("DIR", "d").file("etc/containers/storage.conf", conf)).0, at("/d", "/store"));
    for name in ["STORAGE_DRIVER", "STORAGE_OPTS"] {
        let message = user(name, "overlay").load().unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn links_in_the_graphroot_are_resolved() {
    let machine = Machine::new(0);
    fs::create_dir(machine.path("real")).unwrap();
    std::os::unix::fs::symlink("real", machine.path("link")).unwrap();
    let text = format!("[storage]\ngraphroot = \"{}\"", machine.path("link").display());
    let machine = machine.file("etc/containers/storage.conf", &text);
    assert_eq!(machine.load().unwrap().graphroot, fs::canonicalize(machine.path("real")).unwrap());
    let real = fs::canonicalize(machine.path("real")).unwrap();
    // What is not there yet is made below what the link leads to.
    for (given, want) in [("link", real.clone()), ("link/new/root", real.join("new/root")), ("link/../link/./new", real.join("new"))] {
        let given = Overrides { root: Some(machine.path(given)), runroot: Some(machine.path(given)), additional: false };
        let config = machine.load_with(&given).unwrap();
        assert_eq!((&config.graphroot, &config.runroot), (&want, &want));
    }
    // Defaults, too.
    let user = Machine::new(1000);
    fs::create_dir_all(user.path("data/containers")).unwrap();
    fs::create_dir_all(user.path("run")).unwrap();
    std::os::unix::fs::symlink(&real, user.path("data/containers/storage")).unwrap();
    std::os::unix::fs::symlink(&real, user.path("run/containers")).unwrap();
    let (data, run) = (user.path("data"), user.path("run"));
    let config = user.var("XDG_DATA_HOME", data).var("XDG_RUNTIME_DIR", run).load().unwrap();
    assert_eq!((config.graphroot, config.runroot), (real.clone(), real));
}
