//! The systemd units in dist/: what they promise, read from the files, and what systemd itself says of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[path = "common/skip.rs"]
mod skip;

use skip::skipped;

const PROGRAM: &str = "/usr/bin/cstor-rs";
const STORE: &str = "/var/lib/containers/storage";

/// Section and key to the values, in their order.
type Unit = BTreeMap<(String, String), Vec<String>>;

fn dist() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("dist")
}

/// All units, by name.
fn units() -> BTreeMap<String, Unit> {
    let files = fs::read_dir(dist()).unwrap().map(|entry| entry.unwrap().path());
    let units: BTreeMap<String, Unit> = files
        .filter(|path| path.extension().is_none_or(|e| e != "md"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), parse(&fs::read_to_string(&path).unwrap())))
        .collect();
    let names: Vec<&str> = units.keys().map(String::as_str).collect();
    let expected = [
        "cstor-rs-fsck.service",
        "cstor-rs-fsck.timer",
        "cstor-rs-recover.service",
        "cstor-rs-settle.path",
        "cstor-rs-settle.service",
        "cstor-rs-settle.timer",
    ];
    assert_eq!(names, expected);
    units
}

fn parse(text: &str) -> Unit {
    let mut unit = Unit::new();
    let mut section = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(!line.ends_with('\\'), "a line that goes on is not read here: {line}");
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(name) => name.clone_into(&mut section),
            None => {
                let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("no assignment: {line}"));
                unit.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
            }
        }
    }
    unit
}

fn all<'a>(unit: &'a Unit, section: &str, key: &str) -> Vec<&'a str> {
    unit.get(&(section.to_owned(), key.to_owned())).into_iter().flatten().map(String::as_str).collect()
}

/// The words of all values of a key.
fn words<'a>(unit: &'a Unit, section: &str, key: &str) -> BTreeSet<&'a str> {
    all(unit, section, key).into_iter().flat_map(str::split_whitespace).collect()
}

#[test]
fn recovery_comes_before_everybody_who_uses_the_store() {
    let units = units();
    let unit = &units["cstor-rs-recover.service"];
    assert_eq!(all(unit, "Service", "ExecStart"), [format!("{PROGRAM} recover")]);
    assert_eq!(all(unit, "Service", "Type"), ["oneshot"]);
    assert_eq!(all(unit, "Service", "RemainAfterExit"), ["yes"]);
    let before = words(unit, "Unit", "Before");
    for other in ["basic.target", "podman.socket", "podman.service", "podman-restart.service", "crio.service", "shutdown.target"] {
        assert!(before.contains(other), "not before {other}: {before:?}");
    }
    // podman.socket comes before basic.target, which default dependencies would wait for: a circle.
    assert_eq!(all(unit, "Unit", "DefaultDependencies"), ["no"]);
    assert_eq!(words(unit, "Unit", "Conflicts"), BTreeSet::from(["shutdown.target"]));
    assert!(words(unit, "Unit", "After").contains("local-fs.target"));
    assert_eq!(all(unit, "Unit", "RequiresMountsFor"), [STORE]);
    for name in ["cstor-rs-settle.service", "cstor-rs-fsck.service"] {
        assert!(words(&units[name], "Unit", "After").contains("cstor-rs-recover.service"), "{name}");
    }
    // A recovery that fails keeps nobody from starting.
    for (name, other) in &units {
        for key in ["Requires", "Requisite", "BindsTo"] {
            assert_eq!(all(other, "Unit", key), <[&str; 0]>::default(), "{name}");
        }
        assert_eq!(all(other, "Install", "RequiredBy"), <[&str; 0]>::default(), "{name}");
    }
}

#[test]
fn a_pull_is_settled_and_a_storm_of_them_ends_nothing() {
    let units = units();
    let (path, service, timer) = (&units["cstor-rs-settle.path"], &units["cstor-rs-settle.service"], &units["cstor-rs-settle.timer"]);
    let watched = ["overlay-layers/layers.json", "overlay-images/images.json"].map(|table| format!("{STORE}/{table}"));
    assert_eq!(all(path, "Path", "PathChanged"), watched);
    // The first run misses what comes while it works.
    assert_eq!(all(service, "Service", "ExecStart"), [format!("{PROGRAM} settle"), format!("{PROGRAM} settle")]);
    assert_eq!(all(service, "Service", "Type"), ["oneshot"]);
    assert_eq!(all(timer, "Timer", "OnUnitInactiveSec"), ["15min"]);
    assert_eq!(all(timer, "Timer", "OnBootSec"), ["2min"]);
    // systemd ends the path unit when its service hits a limit. Without one, the pause sets the rate: it is part of each run,
    // so the path unit never comes near its own limit of 200 triggers in 2 s.
    assert_eq!(all(service, "Unit", "StartLimitIntervalSec"), ["0"]);
    assert_eq!(all(service, "Service", "ExecStartPre"), ["sleep 2"]);
    assert_eq!(words(service, "Service", "SuccessExitStatus"), BTreeSet::from(["32", "64", "96"]));
    for key in ["RemainAfterExit", "Restart"] {
        assert_eq!(all(service, "Service", key), <[&str; 0]>::default(), "the path unit would wait for ever, or the service never end");
    }
}

#[test]
fn the_check_is_weekly_short_and_only_damage_fails_it() {
    let units = units();
    let (service, timer) = (&units["cstor-rs-fsck.service"], &units["cstor-rs-fsck.timer"]);
    assert_eq!(all(service, "Service", "ExecStart"), [format!("{PROGRAM} fsck --level full --max-time 1h")]);
    assert_eq!(words(service, "Service", "SuccessExitStatus"), BTreeSet::from(["32", "64", "96"]));
    assert_eq!(all(service, "Service", "TimeoutStartSec"), ["2h"], "longer than --max-time");
    assert_eq!(all(timer, "Timer", "OnCalendar"), ["weekly"]);
    assert_eq!(all(timer, "Timer", "RandomizedDelaySec"), ["12h"]);
    assert_eq!(all(timer, "Timer", "Persistent"), ["true"]);
}

#[test]
fn what_runs_in_the_background_yields() {
    let units = units();
    for name in ["cstor-rs-settle.service", "cstor-rs-fsck.service"] {
        assert_eq!(all(&units[name], "Service", "IOSchedulingClass"), ["idle"], "{name}");
        assert_eq!(all(&units[name], "Service", "Nice"), ["19"], "{name}");
    }
    let recover = &units["cstor-rs-recover.service"];
    assert_eq!(all(recover, "Service", "IOSchedulingClass"), <[&str; 0]>::default(), "the boot waits for it");
}

/// Each of these gives a service mounts of its own, or makes it unable to restore what layers hold.
#[test]
fn no_sandbox_hides_mounts_or_processes() {
    const HINDER: &[&str] = &[
        "BindPaths",
        "DynamicUser",
        "InaccessiblePaths",
        "MountFlags",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateNetwork",
        "PrivateTmp",
        "PrivateUsers",
        "ProcSubset",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "ProtectProc",
        "ProtectSystem",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "RestrictSUIDSGID",
        "RootDirectory",
        "TemporaryFileSystem",
        "User",
    ];
    for (name, unit) in units() {
        let set: Vec<&str> = unit.keys().filter(|(section, _)| section == "Service").map(|(_, key)| key.as_str()).collect();
        let bad: Vec<&&str> = set.iter().filter(|key| HINDER.contains(key)).collect();
        assert!(bad.is_empty(), "{name}: {bad:?}");
        assert_eq!(name.ends_with(".service"), set.contains(&"NoNewPrivileges"), "{name}");
    }
}

#[test]
fn what_can_be_enabled_has_something_to_be_wanted_by() {
    let wanted: BTreeMap<String, Vec<String>> = units()
        .into_iter()
        .map(|(name, unit)| (name, all(&unit, "Install", "WantedBy").into_iter().map(str::to_owned).collect()))
        .filter(|(_, targets): &(String, Vec<String>)| !targets.is_empty())
        .collect();
    let expected = [
        ("cstor-rs-fsck.timer", "timers.target"),
        ("cstor-rs-recover.service", "multi-user.target"),
        ("cstor-rs-settle.path", "paths.target"),
        ("cstor-rs-settle.timer", "timers.target"),
    ];
    assert_eq!(wanted, expected.iter().map(|(name, target)| ((*name).to_owned(), vec![(*target).to_owned()])).collect());
}

/// What systemd says of copies of our units, in which `change` may be made; what it says of other units is left out.
fn verify(dir: &Path, change: impl Fn(String) -> String) -> Result<Vec<String>, String> {
    // systemd wants to see the program; any that can be executed will do.
    let program = std::env::current_exe().unwrap();
    let mut files = Vec::new();
    for name in units().into_keys() {
        let text = fs::read_to_string(dist().join(&name)).unwrap().replace(PROGRAM, program.to_str().unwrap());
        let file = dir.join(name);
        fs::write(&file, change(text)).unwrap();
        files.push(file);
    }
    // All of it in one boot: only then are circles seen.
    let boot = dir.join("cstor-rs-boot.target");
    let wants = "basic.target podman.socket podman.service cstor-rs-recover.service cstor-rs-settle.path cstor-rs-fsck.timer";
    fs::write(&boot, format!("[Unit]\nDescription=A boot\nWants={wants}\n")).unwrap();
    files.push(boot);
    let mut command = Command::new("systemd-analyze");
    let output = command.args(["verify", "--man=no"]).args(&files).output().map_err(|e| format!("systemd-analyze: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let ours: Vec<String> = said.lines().filter(|line| line.contains("cstor-rs-")).map(str::to_owned).collect();
    if !output.status.success() && ours.is_empty() {
        return Err(format!("systemd-analyze does not work here: {}", said.lines().next().unwrap_or_default()));
    }
    Ok(ours)
}

#[test]
fn systemd_accepts_the_units() {
    let temp = tempfile::tempdir().unwrap();
    match verify(temp.path(), |text| text) {
        Ok(said) => assert_eq!(said, Vec::<String>::new()),
        Err(reason) => return skipped(&reason),
    }
    // It would have said something.
    let said = verify(temp.path(), |text| text.replace("IOSchedulingClass=idle", "IOSchedulingClass=lazy")).unwrap();
    assert_eq!(said.len(), 2, "{said:?}");
    let said = verify(temp.path(), |text| text.replace("DefaultDependencies=no", "")).unwrap();
    assert!(said.iter().any(|line| line.contains("ordering cycle")), "{said:?}");
}
