//! A registry, a store of its own, and the command between them.

#![allow(dead_code)]

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use crate::registry::{self, Compression, ImageSpec, Pushed, Registry};

pub struct World {
    pub temp: tempfile::TempDir,
    pub registry: Registry,
}

impl World {
    pub fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap(), registry: Registry::start() }
    }

    pub fn root(&self) -> PathBuf {
        self.temp.path().join("root")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cstor-rs"));
        command.arg("--root").arg(self.root()).arg("--runroot").arg(self.temp.path().join("run")).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }

    pub fn push(&self, name: &str) -> Pushed {
        let base = registry::tar(&[("base", &[1; 5000])]);
        let own = registry::tar(&[("own", name.as_bytes())]);
        self.registry.add_image(name, "latest", &ImageSpec::new().layer(base, Compression::Gzip).layer(own, Compression::Zstd))
    }

    /// The command that pulls `latest` of these.
    pub fn pulling(&self, args: &[&str], names: &[&str]) -> Command {
        let mut command = self.command(&["pull", "--tls-verify=false", "--retry", "0"]);
        command.args(args).args(names.iter().map(|name| self.registry.reference(&format!("{name}:latest"))));
        command
    }

    pub fn pull(&self, args: &[&str], names: &[&str]) -> Output {
        self.pulling(args, names).output().unwrap()
    }
}

pub fn lines(output: &Output) -> Vec<String> {
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
