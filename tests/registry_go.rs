//! Manifests and configs shown to skopeo and to us: what Go cannot decode we refuse, and nothing that images really have.

#![cfg(feature = "registry")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "common/registry/mod.rs"]
#[allow(unused_imports)]
mod embedded;
#[path = "common/skip.rs"]
mod skip;

use std::error::Error as _;
use std::process::Command;

use cstor_rs::ids::Digest;
use cstor_rs::registry::{ImageSource, Options, Platform, Registry as Client, RegistryError, SystemFiles, config};
use embedded::Registry;

/// Where a row's text goes, always at the end of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Manifest,
    /// The descriptor of the config.
    Descriptor,
    Layer,
    Config,
    /// `config` inside the config.
    Run,
    History,
    RootFs,
}
use At::{Config, Descriptor, History, Layer, Manifest, RootFs, Run};

/// Who takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Both,
    Neither,
    /// Skopeo: newer structs refuse it, or it reads something that we would not.
    OnlyGo,
    /// Skopeo, in a docker manifest, of which it decodes fewer fields.
    GoInDocker,
}
use Verdict::{Both, GoInDocker, Neither, OnlyGo};

const ROWS: &[(At, &str, Verdict)] = &[
    (Manifest, "", Both),
    (Manifest, r#","annotations":{"a":"b"}"#, Both),
    (Manifest, r#","annotations":null,"subject":null,"unknown":[7,{"Digest":1}]"#, Both),
    (Manifest, r#","artifactType":7"#, OnlyGo),
    (Manifest, r#","subject":[]"#, GoInDocker),
    (Descriptor, "", Both),
    (Descriptor, r#","urls":null,"annotations":null,"platform":null"#, Both),
    (Descriptor, r#","urls":[null],"annotations":{"a":null}"#, Both),
    (Descriptor, r#","Digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000""#, Neither),
    (Descriptor, r#","Unknown":7"#, Both),
    (Descriptor, r#","\u017fize":7"#, OnlyGo),
    (Descriptor, r#","Urls":[]"#, OnlyGo),
    (Descriptor, r#","urls":"x""#, Neither),
    (Layer, r#","data":"e30=""#, Both),
    (Layer, r#","data":5"#, GoInDocker),
    (Layer, r#","data":"?""#, GoInDocker),
    (Layer, r#","urls":[7]"#, Neither),
    (Layer, r#","artifactType":[]"#, GoInDocker),
    (Config, "", Both),
    (Config, r#","author":null,"variant":null,"id":"x","Size":7,"docker_version":"20","container":"c","parent":"","comment":null"#, Both),
    (Config, r#","os.version":"10","os.features":["a"],"moby.buildkit.cache.v0":{"a":[1]}"#, Both),
    (Config, r#","os.features":"a""#, Neither),
    (Config, r#","container_config":{"Cmd":["/bin/sh","-c","\u0023(nop) "],"Image":"sha256:x","Volumes":null,"Labels":{}}"#, Both),
    (Config, r#","container_config":[]"#, Neither),
    (Config, r#","container_config":{"Tty":"no"}"#, Neither),
    (Config, r#","docker_version":7"#, Neither),
    (Config, r#","Size":"7""#, Neither),
    (Config, r#","Author":"x""#, OnlyGo),
    (Config, r#","author":7"#, Neither),
    (Config, r#","author":"a","author":"b""#, OnlyGo),
    (Run, r#""Labels":null,"Cmd":null,"Env":null,"Volumes":null,"ExposedPorts":null,"Entrypoint":null,"OnBuild":null"#, Both),
    (Run, r#""Labels":{"a":"b"},"Volumes":{"/a":{}},"ExposedPorts":{"80/tcp":{}},"Env":["A=b"],"User":"0","StopSignal":"9""#, Both),
    (Run, r#""Hostname":"","Domainname":"","AttachStdin":false,"Tty":false,"ArgsEscaped":true,"StopTimeout":7,"Shell":["a"]"#, Both),
    (Run, r#""Healthcheck":{"Test":["CMD","x"],"Interval":30000000000,"Timeout":3,"StartPeriod":0,"Retries":3}"#, Both),
    (Run, r#""Memory":0,"CpuShares":"","PortSpecs":null"#, Both),
    (Run, r#""Healthcheck":{"Interval":"30s"}"#, Neither),
    (Run, r#""Healthcheck":{"Interval":1.5}"#, Neither),
    (Run, r#""Healthcheck":[]"#, Neither),
    (Run, r#""Labels":7"#, Neither),
    (Run, r#""Labels":{"a":7}"#, Neither),
    (Run, r#""Labels":["a"]"#, Neither),
    (Run, r#""labels":{"a":"b"}"#, OnlyGo),
    (Run, r#""Volumes":{"/a":[]}"#, Neither),
    (Run, r#""Volumes":{"/a":null}"#, Both),
    (Run, r#""ExposedPorts":["80/tcp"]"#, Neither),
    (Run, r#""Env":"A=b""#, Neither),
    (Run, r#""Env":[1]"#, Neither),
    (Run, r#""Cmd":"/bin/sh""#, Neither),
    (Run, r#""WorkingDir":["/"]"#, Neither),
    (Run, r#""StopTimeout":"1""#, Neither),
    (Run, r#""StopTimeout":9223372036854775808"#, Neither),
    (History, r#""created":"2024-05-01T12:00:00.123456789+02:00","created_by":"x","comment":"","empty_layer":true"#, Both),
    (History, r#""created":null,"author":null"#, Both),
    (History, r#""created":"yesterday""#, Neither),
    (History, r#""created":"2024-05-01 12:00:00Z""#, Neither),
    (History, r#""empty_layer":1"#, Neither),
    (RootFs, r#","type":7"#, Neither),
    (RootFs, r#","diff_id":7"#, Both),
];

/// Other documents as wholes: the config's text with this replaced by that.
const REPLACED: &[(&str, &str, Verdict)] = &[
    (r#""created":"2024-05-01T12:00:00Z""#, r#""created":"2024-05-01 12:00:00Z""#, Neither),
    (r#""created":"2024-05-01T12:00:00Z""#, r#""created":"""#, Neither),
    (r#""created":"2024-05-01T12:00:00Z""#, r#""created":null"#, Both),
    (r#""created":"2024-05-01T12:00:00Z","#, "", Both),
    (r#""config":{}"#, r#""config":null"#, Both),
    (r#""config":{}"#, r#""config":[]"#, Neither),
    (r#""config":{}"#, r#""config":"""#, Neither),
    (r#""history":[{}]"#, r#""history":null"#, Both),
    (r#""history":[{}]"#, r#""history":[[]]"#, Neither),
    (r#""history":[{}]"#, r#""history":{}"#, Neither),
];

fn kinds(docker: bool) -> [&'static str; 3] {
    if docker {
        [
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ]
    } else {
        [
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ]
    }
}

/// Keeps an image `a:t` with `text` at that place.
fn push(registry: &Registry, docker: bool, at: At, text: &str, replaced: (&str, &str)) {
    let here = |place| if at == place { text } else { "" };
    let digest = Digest::of(b"layer");
    let config = format!(
        r#"{{"created":"2024-05-01T12:00:00Z","os":"linux","architecture":"amd64","config":{{{}}},
            "rootfs":{{"diff_ids":["{digest}"]{}}},"history":[{{{}}}]{}}}"#,
        here(Run),
        here(RootFs),
        here(History),
        here(Config)
    )
    .replace(replaced.0, replaced.1);
    let [kind, config_kind, layer_kind] = kinds(docker);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{{"mediaType":"{config_kind}","digest":"{}","size":{}{}}},
            "layers":[{{"mediaType":"{layer_kind}","digest":"{digest}","size":5{}}}]{}}}"#,
        registry.add_blob(config.clone()),
        config.len(),
        here(Descriptor),
        here(Layer),
        here(Manifest)
    );
    registry.add_manifest("a", Some("t"), kind, manifest);
}

fn ours(registry: &Registry) -> Result<(), String> {
    let options = Options { tls_verify: Some(false), system: SystemFiles::default(), ..Options::default() };
    let judge = || {
        let client = Client::connect(registry.reference("a:t").parse().unwrap(), &options)?;
        let found = client.manifest(&Platform::host())?;
        let raw = client.config(&found.image.config)?;
        config::parse(&raw, 1).map_err(|source| RegistryError::Content { what: "config".into(), source })
    };
    judge().map(drop).map_err(|e| format!("{e}: {}", e.source().map(ToString::to_string).unwrap_or_default()))
}

/// As podman reads an image for a listing: by the structs of OCI and those of docker.
fn skopeos(registry: &Registry) -> Result<(), String> {
    for args in [&["inspect", "--no-tags"][..], &["inspect", "--config"]] {
        let reference = format!("docker://{}", registry.reference("a:t"));
        let output = Command::new("skopeo").args(args).arg("--tls-verify=false").arg(reference).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
    }
    Ok(())
}

#[test]
fn what_go_cannot_decode_is_refused_and_nothing_that_images_have() {
    let skopeo = Command::new("skopeo").arg("--version").output();
    if skopeo.is_err() {
        skip::skipped("skopeo is not installed");
    }
    let rows = ROWS.iter().map(|(at, text, verdict)| (*at, *text, ("\0", ""), *verdict));
    let rows = rows.chain(REPLACED.iter().map(|(from, to, verdict)| (Config, "", (*from, *to), *verdict)));
    let mut faults = Vec::new();
    for (at, text, replaced, verdict) in rows {
        for docker in [false, true] {
            let registry = Registry::start();
            push(&registry, docker, at, text, replaced);
            let case = format!("{at:?} {text}{replaced:?}, docker {docker}");
            let got = ours(&registry);
            if got.is_ok() != (verdict == Both) {
                faults.push(format!("{case}: we: {got:?}, wanted {verdict:?}"));
            }
            if skopeo.is_ok() {
                let got = skopeos(&registry);
                let want = match verdict {
                    Both | OnlyGo => true,
                    Neither => false,
                    GoInDocker => docker,
                };
                if got.is_ok() != want {
                    faults.push(format!("{case}: skopeo: {got:?}, wanted {verdict:?}"));
                }
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}
