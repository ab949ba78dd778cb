//! The registry client against a registry that misbehaves by script.

#![cfg(feature = "registry")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

#[path = "common/registry/mod.rs"]
mod embedded;

use std::error::Error as _;
use std::io::Read;
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use cstor_rs::ids::Digest;
use cstor_rs::registry::{
    Descriptor, ImageSource, Login, Options, Place, Platform, Reference, Registry as Client, RegistryError, Resolved, SystemFiles, config,
};
use embedded::{Access, Compression, Fault, ImageSpec, Pushed, Registry, tar};

/// Patient with a busy machine, and quick to try again.
fn options() -> Options {
    Options {
        tls_verify: Some(false),
        // This machine's own files are not what is tested.
        system: SystemFiles::default(),
        login: Some(Login::parse("me:secret").unwrap()),
        retries: 2,
        retry_delay: Duration::from_millis(1),
        connect_timeout: Duration::from_secs(5),
        ..Options::default()
    }
}

/// Quick to give up where a fault lasts for ever; patient anywhere else, so that load cannot look like a stall.
fn options_for(stalls: bool) -> Options {
    if stalls { Options { stall: Duration::from_millis(400), ..options() } } else { options() }
}

fn connect(registry: &Registry, name: &str, options: &Options) -> Result<Client, RegistryError> {
    Client::connect(registry.reference(name).parse().unwrap(), options)
}

fn pull(registry: &Registry, name: &str, options: &Options) -> Result<(Resolved, Vec<Vec<u8>>), RegistryError> {
    let client = connect(registry, name, options)?;
    let found = client.manifest(&Platform::host())?;
    client.config(&found.image.config)?;
    let layers = found.image.layers.iter().map(|l| read(&client, l)).collect::<Result<_, _>>()?;
    Ok((found, layers))
}

/// The bytes of a blob. The client leaves its digest to the reader; here the reader says so in its own way.
fn read(client: &Client, layer: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    let mut bytes = Vec::new();
    let mut reader = client.blob(layer)?;
    if let Err(error) = reader.read_to_end(&mut bytes) {
        assert!(reader.read(&mut [0]).is_err(), "an error must not turn into an end");
        return Err(*error.into_inner().unwrap().downcast().unwrap());
    }
    assert_eq!(bytes.len() as u64, layer.size);
    Ok(bytes)
}

/// An error with its causes in one line.
fn chain(error: &RegistryError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

fn noise(len: usize) -> Vec<u8> {
    let mut x = 1u32;
    let mut next = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (x >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn big_layer() -> Vec<u8> {
    static LAYER: OnceLock<Vec<u8>> = OnceLock::new();
    LAYER.get_or_init(|| tar(&[("file", &noise(3 << 20))])).clone()
}

/// Runs every row; those that wait for a stall wait together.
fn each<T: Send>(table: Vec<T>, stalls: impl Fn(&T) -> bool, run: impl Fn(T) + Sync) {
    std::thread::scope(|scope| {
        for row in table {
            if stalls(&row) {
                scope.spawn(|| run(row));
            } else {
                run(row);
            }
        }
    });
}

fn stalls(fault: &Fault) -> bool {
    matches!(fault, Fault::StallBeforeHeaders | Fault::StallAfter(_))
}

/// One image of one layer of about 3 MiB.
fn one(registry: &Registry) -> (Pushed, Vec<u8>) {
    let layer = big_layer();
    (registry.add_image("a/b", "t", &ImageSpec::new().layer(&layer, Compression::None)), layer)
}

#[test]
fn an_image_is_fetched_whole_and_each_object_once() {
    let registry = Registry::start();
    let layers: Vec<Vec<u8>> = ["one", "two", "three"].iter().map(|n| tar(&[(n, n.as_bytes())])).collect();
    for docker in [false, true] {
        let mut spec = ImageSpec::new();
        for (layer, how) in layers.iter().zip([Compression::None, Compression::Gzip, Compression::Zstd]) {
            spec = spec.layer(layer, how);
        }
        let pushed = registry.add_image("a/b", "t", &if docker { spec.docker() } else { spec });
        registry.forget();
        let (found, blobs) = pull(&registry, "a/b:t", &options()).unwrap();
        assert_eq!(found.digest(), &pushed.manifest);
        assert_eq!(Digest::of(&found.image.raw), pushed.manifest);
        assert!(found.index.is_none());
        assert_eq!(found.image.config.digest, pushed.config);
        assert_eq!(blobs.iter().map(|b| Digest::of(b)).collect::<Vec<_>>(), pushed.layers);
        let mut want = vec!["GET /v2/a/b/manifests/t".to_owned(), format!("GET /v2/a/b/blobs/{}", pushed.config)];
        want.extend(pushed.layers.iter().map(|l| format!("GET /v2/a/b/blobs/{l}")));
        assert_eq!(registry.log(), want);
        assert!(registry.requests().iter().all(|r| r.authorization.is_none()), "credentials go only to who asks");
        assert!(registry.requests().iter().all(|r| r.headers["user-agent"] == concat!("cstor-rs/", env!("CARGO_PKG_VERSION"))));
    }
}

#[test]
fn the_config_names_the_layers_that_came() {
    let registry = Registry::start();
    let (pushed, _) = one(&registry);
    let client = connect(&registry, "a/b:t", &options()).unwrap();
    let found = client.manifest(&Platform::host()).unwrap();
    let parsed = config::parse(&client.config(&found.image.config).unwrap(), found.image.layers.len()).unwrap();
    assert_eq!(parsed.diff_ids, pushed.diff_ids);
}

#[test]
fn an_index_leads_to_the_image_for_the_platform() {
    let registry = Registry::start();
    let spec = |platform: &str| ImageSpec::new().platform(platform).layer(tar(&[("f", platform.as_bytes())]), Compression::Gzip);
    let platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7"];
    for docker in [false, true] {
        let specs: Vec<ImageSpec> = platforms.iter().map(|p| if docker { spec(p).docker() } else { spec(p) }).collect();
        let (index, pushed) = registry.add_index("multi", "t", &specs);
        for name in ["multi:t".to_owned(), format!("multi@{index}"), format!("multi:t@{index}")] {
            let client = connect(&registry, &name, &options()).unwrap();
            for (platform, pushed) in platforms.iter().zip(&pushed) {
                let found = client.manifest(&platform.parse().unwrap()).unwrap();
                assert_eq!((found.digest(), &found.image.digest), (&index, &pushed.manifest), "{name} {platform}");
            }
            let error = client.manifest(&"linux/s390x".parse().unwrap()).unwrap_err();
            assert!(matches!(error, RegistryError::Content { .. }));
            assert!(
                chain(&error).contains("no image for linux/s390x; there is linux/amd64, linux/arm64, linux/arm/v7"),
                "{}",
                chain(&error)
            );
        }
    }
}

/// Manifest and config: what goes wrong, how often, and what is said about it; none where it must succeed.
#[test]
fn a_bad_manifest_or_config_is_an_error_that_names_it() {
    let other = format!("sha256:{}", "0".repeat(64));
    let stall = |after| if after == 0 { Fault::StallBeforeHeaders } else { Fault::StallAfter(after) };
    let always = u32::MAX;
    let table: Vec<(&str, u32, Fault, Option<&str>)> = vec![
        ("manifests/", always, Fault::Status(404, "nope\x1b[2J"), Some("NotFound manifest HOST/a/b:t not found on HOST: nope[2J")),
        ("manifests/", always, Fault::Status(403, ""), Some("Unauthorized manifest HOST/a/b:t: access denied by HOST; log in")),
        ("manifests/", always, Fault::Status(401, ""), Some("Unauthorized manifest HOST/a/b:t: access denied")),
        ("manifests/", always, Fault::Status(500, "oh"), Some("Server manifest HOST/a/b:t: HOST answered 500 Internal Server Error: oh")),
        ("manifests/", 2, Fault::Status(500, "oh"), None),
        ("manifests/", 2, Fault::StatusWith(429, ("Retry-After", "0"), ""), None),
        (
            "manifests/",
            always,
            Fault::StatusWith(429, ("Retry-After", "0"), "slow"),
            Some("RateLimited manifest HOST/a/b:t: HOST limits requests: slow"),
        ),
        ("manifests/", 1, Fault::StatusWith(503, ("Retry-After", "0"), ""), None),
        ("manifests/", always, Fault::Status(418, ""), Some("Server manifest HOST/a/b:t: HOST answered 418")),
        ("manifests/", 1, Fault::Status(416, ""), Some("Server manifest HOST/a/b:t: HOST answered 416")),
        ("manifests/", 1, stall(0), None),
        ("manifests/", always, stall(0), Some("Stalled manifest HOST/a/b:t: HOST sent nothing for 0.4 s after 0 bytes, attempt 3")),
        ("manifests/", always, stall(7), Some("Stalled manifest HOST/a/b:t: HOST sent nothing for 0.4 s after 7 bytes, attempt 3")),
        ("manifests/", 1, Fault::CloseAfter(7), None),
        (
            "manifests/",
            always,
            Fault::CloseAfter(7),
            Some("Broken manifest HOST/a/b:t: the connection to HOST broke after 7 bytes, attempt 3"),
        ),
        (
            "manifests/",
            1,
            Fault::ContentLength(5 << 20),
            Some("Length manifest HOST/a/b:t from HOST: 5242880 bytes announced, expected 4194304"),
        ),
        ("manifests/", 1, Fault::Chunked(vec![b' '; 4 << 20]), Some("Length manifest HOST/a/b:t from HOST: more than 4194304 bytes came")),
        ("manifests/", 1, Fault::WrongBytes, Some("Digest manifest HOST/a/b:t from HOST has digest")),
        ("manifests/", 1, Fault::DigestHeader(other), Some("Digest manifest HOST/a/b:t from HOST has digest")),
        ("manifests/", 1, Fault::ContentType("text/html"), None),
        (
            "manifests/",
            1,
            Fault::ContentType("application/vnd.oci.image.index.v1+json"),
            Some("Content manifest HOST/a/b:t refused: the registry calls it application/vnd.oci.image.index.v1+json, but"),
        ),
        (
            "manifests/",
            always,
            Fault::Redirect("/v2/a/b/manifests/t".into()),
            Some("Server manifest HOST/a/b:t: HOST answered a bad redirect"),
        ),
        ("CONFIG", 1, Fault::WrongBytes, Some("Digest config CONFIG from HOST has digest")),
        ("CONFIG", 1, Fault::Body(b"{}".to_vec()), Some("Length config CONFIG from HOST: 2 bytes came, expected")),
        ("CONFIG", 1, Fault::Chunked(b"x".to_vec()), Some("Length config CONFIG from HOST: more than")),
        ("CONFIG", always, Fault::Status(404, ""), Some("NotFound config CONFIG not found on HOST")),
        ("CONFIG", 1, Fault::CloseAfter(3), None),
    ];
    each(
        table,
        |(_, _, fault, _)| stalls(fault),
        |(path, times, fault, want)| {
            let registry = Registry::start();
            let (pushed, layer) = one(&registry);
            let named = |text: &str| text.replace("HOST", &registry.host()).replace("CONFIG", pushed.config.as_str());
            let case = format!("{path} x {times} {fault:?}");
            let case = &case[..case.len().min(200)];
            let options = options_for(stalls(&fault));
            registry.script(named(path), times, fault);
            match (pull(&registry, "a/b:t", &options), want) {
                (Ok((_, layers)), None) => assert!(layers == [layer], "{case}: other bytes"),
                (Err(error), Some(want)) => {
                    let text = format!("{} {}", format!("{error:?}").split([' ', '(']).next().unwrap(), chain(&error));
                    assert!(text.starts_with(&named(want)), "{case}:\n{text}");
                }
                (got, want) => panic!("{case}: {:?}, wanted {want:?}", got.map(|_| ())),
            }
        },
    );
}

/// Blobs: the script in order, the ranges that are then asked for, and the error if it ends in one.
#[test]
fn a_broken_blob_is_resumed_where_it_broke() {
    const M: usize = 1 << 20;
    let size = big_layer().len();
    let always = u32::MAX;
    type Case = (Vec<(u32, Fault)>, Vec<&'static str>, Option<String>);
    let table: Vec<Case> = vec![
        (vec![], vec![""], None),
        (vec![(1, Fault::CloseAfter(1000))], vec!["", "bytes=1000-"], None),
        (vec![(1, Fault::StallAfter(M))], vec!["", "bytes=1048576-"], None),
        (vec![(1, Fault::StallBeforeHeaders)], vec!["", ""], None),
        (vec![(2, Fault::CloseAfter(10)), (1, Fault::StallAfter(10))], vec!["", "bytes=10-", "bytes=20-"], Some("Stalled".into())),
        (vec![(3, Fault::CloseAfter(M))], vec!["", "bytes=1048576-", "bytes=2097152-", "bytes=3145728-"], None),
        (vec![(1, Fault::CloseAfter(1000)), (1, Fault::IgnoreRange)], vec!["", "bytes=1000-"], None),
        (vec![(1, Fault::CloseAfter(1000)), (1, Fault::ContentRange("bytes 999-5/6"))], vec!["", "bytes=1000-", ""], None),
        (vec![(1, Fault::CloseAfter(1000)), (1, Fault::ContentRange("rubbish"))], vec!["", "bytes=1000-", ""], None),
        (vec![(1, Fault::CloseAfter(1000)), (1, Fault::Status(416, ""))], vec!["", "bytes=1000-", ""], None),
        (vec![(1, Fault::CloseAfter(1000)), (1, Fault::Status(502, ""))], vec!["", "bytes=1000-", "bytes=1000-"], None),
        (vec![(1, Fault::Status(416, ""))], vec![""], Some("Server blob BLOB: HOST answered 416".into())),
        (vec![(1, Fault::ContentRange("bytes 0-1/2"))], vec![""], Some("Server blob BLOB: HOST answered 206".into())),
        (vec![(2, Fault::StatusWith(429, ("Retry-After", "0"), ""))], vec!["", "", ""], None),
        (
            vec![(always, Fault::CloseAfter(10))],
            vec!["", "bytes=10-", "bytes=20-"],
            Some("Broken blob BLOB: the connection to HOST broke after 30 bytes, attempt 3".into()),
        ),
        (
            vec![(always, Fault::StallAfter(10))],
            vec!["", "bytes=10-", "bytes=20-"],
            Some("Stalled blob BLOB: HOST sent nothing for 0.4 s after 30 bytes, attempt 3".into()),
        ),
        (vec![(1, Fault::Status(404, "gone"))], vec![""], Some("NotFound blob BLOB not found on HOST: gone".into())),
        (
            vec![(1, Fault::ContentLength(size as u64 - 1))],
            vec![""],
            Some(format!("Length blob BLOB from HOST: Content-Length is {}, expected {size} bytes; refused", size - 1)),
        ),
        (
            vec![(1, Fault::ContentLength(size as u64 + 1))],
            vec![""],
            Some(format!("Length blob BLOB from HOST: Content-Length is {}, expected {size} bytes; refused", size + 1)),
        ),
        (vec![(1, Fault::Body(b"garbage".to_vec()))], vec![""], Some("Length blob BLOB from HOST: Content-Length is 7".into())),
        (vec![(1, Fault::Chunked(vec![]))], vec![""], None),
        (vec![(1, Fault::Chunked(b"x".to_vec()))], vec![""], Some(format!("Length blob BLOB from HOST: more than {size} bytes came"))),
    ];
    each(
        table,
        |(script, _, _)| script.iter().any(|(_, f)| stalls(f)),
        |(script, ranges, want)| {
            let registry = Registry::start();
            let (pushed, layer) = one(&registry);
            let blob = pushed.layers[0].as_str();
            let case = format!("{script:?}");
            let options = options_for(script.iter().any(|(_, f)| stalls(f)));
            for (times, fault) in script {
                registry.script(blob, times, fault);
            }
            let got = pull(&registry, "a/b:t", &options);
            let asked: Vec<String> =
                registry.requests().into_iter().filter(|r| r.path.contains(blob)).map(|r| r.range.unwrap_or_default()).collect();
            assert_eq!(asked, ranges, "{case}");
            match (got, want) {
                (Ok((_, layers)), None) => assert!(layers == [layer], "{case}: other bytes"),
                (Err(error), Some(want)) => {
                    let text = format!("{} {}", format!("{error:?}").split([' ', '(']).next().unwrap(), chain(&error));
                    let want = want.replace("HOST", &registry.host()).replace("BLOB", blob);
                    assert!(text.starts_with(&want), "{case}:\n{text}");
                }
                (got, want) => panic!("{case}: {:?}, wanted {want:?}", got.map(|_| ())),
            }
        },
    );
}

/// A stall that is allowed to be longer than everything else: what ends then is the whole object's time.
#[test]
fn a_drip_does_not_last_for_ever() {
    let limit = Some(Duration::from_secs(1));
    let table = [
        ("manifests/", "manifest HOST/a/b:t: HOST sent only 7 bytes in 1 s after 7 bytes, attempt 3"),
        ("CONFIG", "config CONFIG: HOST sent only 7 bytes in 1 s after 7 bytes, attempt 3"),
        ("/token", "token for manifest HOST/a/b:t: HOST sent only 7 bytes in 1 s after 7 bytes, attempt 3"),
        ("BLOB", "blob BLOB: HOST sent only 7 bytes in 1 s after 21 bytes, attempt 3"),
    ];
    let run = |(path, want): (&str, &str)| {
        let registry = Registry::start();
        let (pushed, _) = one(&registry);
        let named = |text: &str| {
            let text = text.replace("HOST", &registry.host()).replace("CONFIG", pushed.config.as_str());
            text.replace("BLOB", pushed.layers[0].as_str())
        };
        if path == "/token" {
            registry.guard(Access::Bearer(None));
        }
        registry.script(named(path), u32::MAX, Fault::StallAfter(7));
        let patient = Duration::from_secs(3600);
        let options = Options { stall: patient, small_deadline: limit, blob_window: limit, ..options() };
        let error = pull(&registry, "a/b:t", &options).unwrap_err();
        assert!(matches!(error, RegistryError::Stalled { .. }), "{error:?}");
        assert_eq!(chain(&error), named(want));
    };
    each(table.to_vec(), |_| true, run);
    // A blob that never makes its pace fails, one without a floor comes whole.
    for (blob_floor, whole) in [(u64::MAX, false), (0, true)] {
        let registry = Registry::start();
        one(&registry);
        let options = Options { blob_window: Some(Duration::ZERO), blob_floor, retries: 0, ..options() };
        assert_eq!(pull(&registry, "a/b:t", &options).is_ok(), whole);
    }
}

#[test]
fn wrong_bytes_of_a_blob_reach_the_reader_who_hashes_them() {
    let registry = Registry::start();
    let (pushed, _) = one(&registry);
    registry.script(pushed.layers[0].as_str(), 1, Fault::WrongBytes);
    let (_, layers) = pull(&registry, "a/b:t", &options()).unwrap();
    assert_ne!(Digest::of(&layers[0]), pushed.layers[0]);
}

#[test]
fn a_reader_that_is_dropped_ends_its_fetch() {
    let registry = Registry::start();
    let (pushed, _) = one(&registry);
    registry.script(pushed.layers[0].as_str(), u32::MAX, Fault::StallAfter(10));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let options = Options { stall: Duration::from_secs(600), runtime: Some(runtime.handle().clone()), ..options() };
    let client = connect(&registry, "a/b:t", &options).unwrap();
    let found = client.manifest(&Platform::host()).unwrap();
    let mut reader = client.blob(&found.image.layers[0]).unwrap();
    reader.read_exact(&mut [0; 10]).unwrap();
    drop(reader);
    drop(client);
    let begun = Instant::now();
    while runtime.metrics().num_alive_tasks() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "a task or a connection outlives its reader");
        std::thread::yield_now();
    }
}

#[test]
fn credentials_are_given_to_who_asks_for_them() {
    let right = Some(("me", "secret"));
    let login = |text: Option<&str>| text.map(|t| Login::parse(t).unwrap());
    let identity = Some(Login::Identity("secret".into()));
    let table = [
        (Access::Basic("me", "secret"), login(Some("me:secret")), None),
        (
            Access::Basic("me", "secret"),
            login(Some("me:wrong")),
            Some("manifest HOST/a/b:t: access denied by HOST: UNAUTHORIZED: authentication required"),
        ),
        (Access::Basic("me", "secret"), login(None), Some("manifest HOST/a/b:t: access denied by HOST")),
        (Access::Bearer(None), login(None), None),
        (Access::Bearer(right), login(Some("me:secret")), None),
        (Access::Bearer(right), identity, None),
        (
            Access::Bearer(right),
            login(Some("me:wrong")),
            Some("token for manifest HOST/a/b:t: access denied by HOST: UNAUTHORIZED: incorrect username or password"),
        ),
        (Access::Bearer(right), login(None), Some("token for manifest HOST/a/b:t: access denied")),
    ];
    // A file of ours, so that none of the user's is read.
    let temp = tempfile::tempdir().unwrap();
    let authfile = temp.path().join("auth.json");
    std::fs::write(&authfile, "{}").unwrap();
    for (access, login, want) in table {
        let registry = Registry::start();
        one(&registry);
        registry.guard(access.clone());
        let case = format!("{access:?} {login:?}");
        let options = Options { login, authfile: Some(authfile.clone()), ..options() };
        match (pull(&registry, "a/b:t", &options), want) {
            (Ok(_), None) => {
                let tokens = registry.requests().iter().filter(|r| r.path.starts_with("/token")).count();
                assert_eq!(tokens, usize::from(matches!(access, Access::Bearer(_))), "{case}: one token serves all");
            }
            (Err(error), Some(want)) => {
                assert!(matches!(error, RegistryError::Unauthorized { .. }), "{case}: {error:?}");
                assert!(chain(&error).starts_with(&want.replace("HOST", &registry.host())), "{case}: {}", chain(&error));
                assert!(!format!("{error:?}").contains("secret"), "{case}: {error:?}");
            }
            (got, want) => panic!("{case}: {:?}, wanted {want:?}", got.map(|_| ())),
        }
    }
    let registry = Registry::start();
    one(&registry);
    registry.guard(Access::Basic("me", "secret"));
    std::fs::write(&authfile, format!(r#"{{"auths":{{"{}/a":{{"auth":"bWU6c2VjcmV0"}}}}}}"#, registry.host())).unwrap();
    pull(&registry, "a/b:t", &Options { login: None, authfile: Some(authfile), ..options() }).unwrap();
}

#[test]
fn one_token_serves_all_threads() {
    let registry = Registry::start();
    let (_, layer) = one(&registry);
    registry.guard(Access::Bearer(None));
    let client = connect(&registry, "a/b:t", &options()).unwrap();
    let blob = Descriptor { media_type: String::new(), digest: Digest::of(&layer), size: layer.len() as u64 };
    let start = Barrier::new(8);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                start.wait();
                assert!(read(&client, &blob).unwrap() == layer);
            });
        }
    });
    assert_eq!(registry.requests().iter().filter(|r| r.path.starts_with("/token")).count(), 1);
}

#[test]
fn a_token_that_expires_is_renewed() {
    let registry = Registry::start();
    let (pushed, layer) = one(&registry);
    registry.guard(Access::Bearer(None)).token_uses(1).script(pushed.layers[0].as_str(), 1, Fault::CloseAfter(1000));
    let (_, layers) = pull(&registry, "a/b:t", &options()).unwrap();
    assert!(layers == [layer]);
    let tokens = registry.requests().iter().filter(|r| r.path.starts_with("/token")).count();
    assert_eq!(tokens, registry.log().iter().filter(|l| l.contains("/manifests/") || l.contains("/blobs/")).count() / 2);
}

#[test]
fn a_token_server_that_talks_nonsense_is_an_error() {
    for (fault, want) in [
        (Fault::Body(b"not json".to_vec()), "answered something that is not a token"),
        (Fault::Body(b"{}".to_vec()), "answered something without a usable token"),
        (Fault::Body(br#"{"token":"a\nb"}"#.to_vec()), "answered something without a usable token"),
        (Fault::Status(500, "down"), "answered 500 Internal Server Error: down"),
    ] {
        let registry = Registry::start();
        one(&registry);
        registry.guard(Access::Bearer(None)).script("/token", u32::MAX, fault);
        let error = chain(&pull(&registry, "a/b:t", &options()).unwrap_err());
        assert!(error.contains(want), "{error}");
    }
    for challenge in ["Bearer", r#"Bearer realm="file:///etc/passwd""#, r#"Bearer realm="nonsense""#] {
        let registry = Registry::start();
        one(&registry);
        registry.script("manifests/", u32::MAX, Fault::StatusWith(401, ("WWW-Authenticate", challenge), ""));
        let error = chain(&pull(&registry, "a/b:t", &options()).unwrap_err());
        assert!(error.contains("answered a challenge without a usable realm"), "{error}");
    }
}

#[test]
fn credentials_do_not_follow_a_redirect_to_another_host() {
    let (registry, elsewhere) = (Registry::start(), Registry::start());
    let (pushed, layer) = one(&registry);
    elsewhere.add_blob(layer.clone());
    registry.guard(Access::Basic("me", "secret"));
    let blob = pushed.layers[0].as_str();
    registry.script(blob, u32::MAX, Fault::Redirect(format!("http://{}/v2/x/blobs/{blob}?signature=hidden", elsewhere.host())));
    elsewhere.script(blob, 1, Fault::CloseAfter(1000));
    let (_, layers) = pull(&registry, "a/b:t", &options()).unwrap();
    assert!(layers == [layer]);
    assert!(registry.requests().iter().any(|r| r.path.contains(blob) && r.authorization.is_some()));
    assert_eq!(elsewhere.requests().iter().map(|r| r.authorization.clone()).collect::<Vec<_>>(), [None, None]);
    assert_eq!(elsewhere.requests()[1].range.as_deref(), Some("bytes=1000-"));
    elsewhere.script(blob, u32::MAX, Fault::CloseAfter(0));
    let error = pull(&registry, "a/b:t", &options()).unwrap_err();
    assert!(!format!("{error:?} {}", chain(&error)).contains("hidden"), "{error:?}");
}

/// Another registry to which the first sends us for a blob. What it is told and what it is not.
#[test]
fn a_challenge_is_answered_only_to_the_registry_itself() {
    let identity = || Some(Login::Identity("secret".into()));
    let password = || Some(Login::parse("me:secret").unwrap());
    for (scheme, login) in [("Bearer", password()), ("Bearer", identity()), ("Basic", password())] {
        let (registry, elsewhere) = (Registry::start(), Registry::start());
        let (pushed, _) = one(&registry);
        registry.guard(match scheme {
            "Basic" => Access::Basic("me", "secret"),
            _ => Access::Bearer(Some(("me", "secret"))),
        });
        elsewhere.guard(Access::Bearer(None));
        let blob = pushed.layers[0].as_str();
        registry.script(blob, u32::MAX, Fault::Redirect(format!("http://{}/x?signature=hidden", elsewhere.host())));
        let realm = format!(r#"{scheme} realm="http://{}/token",service="embedded",scope="repository:a/b:pull""#, elsewhere.host());
        elsewhere.script("/x", u32::MAX, Fault::Challenge(realm, "who are you?"));
        let options = Options { login, ..options() };
        let client = connect(&registry, "a/b:t", &options).unwrap();
        let found = client.manifest(&Platform::host()).unwrap();
        for _ in 0..2 {
            let error = client.blob(&found.image.layers[0]).map(|_| ()).unwrap_err();
            let want = format!(
                "blob {blob}: {} redirected to {}, which answered 401 Unauthorized: who are you?; only {0} is given its credentials",
                registry.host(),
                elsewhere.host()
            );
            assert_eq!(chain(&error), want);
        }
        let seen: Vec<_> = elsewhere.requests().into_iter().map(|r| (r.method, r.path, r.authorization, r.body)).collect();
        let want = ("GET".to_owned(), "/x?signature=hidden".to_owned(), None, Vec::new());
        assert_eq!(seen, [want.clone(), want], "{scheme}");
        // What answers the registry itself is still what it was.
        let before = registry.requests().len();
        client.config(&found.image.config).unwrap();
        let paths: Vec<String> = registry.requests().into_iter().skip(before).map(|r| r.path).collect();
        assert_eq!(paths, [format!("/v2/a/b/blobs/{}", pushed.config)], "{scheme}");
    }
}

#[test]
fn a_token_server_that_sends_us_on_is_told_nothing_more() {
    for login in [Login::parse("me:secret").unwrap(), Login::Identity("secret".into())] {
        let (registry, elsewhere) = (Registry::start(), Registry::start());
        one(&registry);
        registry.guard(Access::Bearer(Some(("me", "secret"))));
        registry.script("/token", u32::MAX, Fault::Redirect(format!("http://{}/token", elsewhere.host())));
        let error = pull(&registry, "a/b:t", &Options { login: Some(login), ..options() }).unwrap_err();
        let want = format!("token for manifest {0}/a/b:t: {0} answered 307 Temporary Redirect", registry.host());
        assert_eq!(chain(&error), want);
        assert_eq!(elsewhere.requests(), []);
    }
}

#[test]
fn who_refuses_is_named() {
    let table = [
        (404, "blob BLOB not found on ELSE (by way of HOST): no"),
        (403, "blob BLOB: HOST redirected to ELSE, which answered 403 Forbidden: no; only HOST is given its credentials"),
        (401, "blob BLOB: HOST redirected to ELSE, which answered 401 Unauthorized: no; only HOST is given its credentials"),
        (418, "blob BLOB: ELSE (by way of HOST) answered 418 I'm a teapot: no"),
    ];
    for (status, want) in table {
        let (registry, elsewhere) = (Registry::start(), Registry::start());
        let (pushed, _) = one(&registry);
        let blob = pushed.layers[0].as_str();
        registry.script(blob, u32::MAX, Fault::Redirect(format!("http://{}/x", elsewhere.host())));
        elsewhere.script("/x", u32::MAX, Fault::Status(status, "no"));
        let error = pull(&registry, "a/b:t", &options()).unwrap_err();
        let want = want.replace("HOST", &registry.host()).replace("ELSE", &elsewhere.host()).replace("BLOB", blob);
        assert_eq!(chain(&error), want);
    }
}

/// Some registries say 401 without a word; c/image then asks `/v2/` what they want.
#[test]
fn a_401_without_a_challenge_is_explained_by_the_api_root() {
    for access in [Access::Basic("me", "secret"), Access::Bearer(Some(("me", "secret")))] {
        let registry = Registry::start();
        let (_, layer) = one(&registry);
        registry.guard(access.clone()).script("manifests/", 1, Fault::Status(401, ""));
        let (_, layers) = pull(&registry, "a/b:t", &options()).unwrap();
        assert!(layers == [layer], "{access:?}");
    }
}

#[test]
fn a_registry_that_is_down_is_named_with_the_cause() {
    let mut registry = Registry::start();
    let host = registry.host();
    registry.stop();
    for (name, cause) in [(host.as_str(), "refused"), ("no-such-host.invalid", "")] {
        let name: Reference = format!("{name}/a").parse().unwrap();
        let error = Client::connect(name.clone(), &options()).map(|_| ()).unwrap_err();
        assert!(matches!(error, RegistryError::Unreachable { .. }), "{error:?}");
        let text = chain(&error);
        assert!(text.starts_with(&format!("registry {} cannot be reached", name.host())) && text.contains(cause), "{text}");
    }
}

#[test]
fn plain_http_is_not_spoken_while_tls_is_verified() {
    let registry = Registry::start();
    one(&registry);
    let error = pull(&registry, "a/b:t", &Options { tls_verify: Some(true), retries: 0, ..options() }).unwrap_err();
    assert_eq!(registry.requests(), []);
    // A machine without any certificate authority says so even earlier.
    assert!(matches!(error, RegistryError::Tls { .. } | RegistryError::Client { .. }), "{error:?}");
}

/// The host's files, with HOST for the registry's address; the name, and the error or where it was found.
#[test]
fn what_the_host_does_not_allow_is_not_fetched() {
    let accept = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
    let reject = r#"{"default":[{"type":"reject"}]}"#;
    let scoped = r#"{"default":[{"type":"reject"}],"transports":{"docker":{"HOST/a":[{"type":"insecureAcceptAnything"}]}}}"#;
    let signed = r#"{"default":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}]}"#;
    let insecure = "[[registry]]\nlocation = 'HOST'\ninsecure = true";
    let moved = "[[registry]]\nprefix = 'example.com/x'\nlocation = 'HOST/a'\ninsecure = true";
    let blocked = "[[registry]]\nlocation = 'HOST'\nblocked = true";
    let one_search = format!("unqualified-search-registries = ['HOST']\n{insecure}");
    type Case<'a> = (Option<&'a str>, Option<&'a str>, &'a str, Option<&'a str>);
    let table: [Case<'_>; 11] = [
        (None, Some(insecure), "HOST/a/b:t", None),
        (Some(accept), Some(insecure), "HOST/a/b:t", None),
        (Some(scoped), Some(insecure), "HOST/a/b:t", None),
        (Some(reject), Some(insecure), "HOST/a/b:t", Some("HOST/a/b:t is not accepted: DIR/policy.json rejects it (default)")),
        (
            Some(signed),
            Some(insecure),
            "HOST/a/b:t",
            Some(
                "HOST/a/b:t is not accepted: DIR/policy.json wants it verified by \"signedBy\", and signatures are not verified yet (default)",
            ),
        ),
        (Some("{"), None, "HOST/a/b:t", Some("DIR/policy.json: is not a policy: EOF while parsing an object at line 1 column 1")),
        (None, Some(blocked), "HOST/a/b:t", Some("HOST/a/b:t is not accepted: DIR/registries.conf blocks \"HOST\"")),
        (None, Some(moved), "example.com/x/b:t", None),
        (None, Some(&one_search), "a/b:t", None),
        (
            None,
            Some("unqualified-search-registries = ['b.io', 'c.io']"),
            "a/b:t",
            Some(
                "a/b:t is not accepted: DIR/registries.conf names b.io, c.io for names without a registry; write the full name, REGISTRY/a/b:t",
            ),
        ),
        (
            None,
            Some("unqualified-search-registries = ['nodot']"),
            "a/b:t",
            Some("a/b:t is not accepted: registries.conf makes \"nodot/a/b:t\" of it, which still names no registry"),
        ),
    ];
    for (policy, registries, name, want) in table {
        let registry = Registry::start();
        let (pushed, _) = one(&registry);
        let temp = tempfile::tempdir().unwrap();
        let named = |text: &str| text.replace("HOST", &registry.host()).replace("DIR", temp.path().to_str().unwrap());
        let put = |file: &str, text: Option<&str>| text.iter().for_each(|t| std::fs::write(temp.path().join(file), named(t)).unwrap());
        put("policy.json", policy);
        put("registries.conf", registries);
        let system = SystemFiles {
            policy: vec![temp.path().join("none"), temp.path().join("policy.json")],
            registries: vec![temp.path().join("registries.conf")],
            ..SystemFiles::default()
        };
        let options = Options { tls_verify: None, system: system.clone(), ..options() };
        let got = Place::find(&named(name), &system).and_then(|place| place.open(&options)).and_then(|found| {
            let resolved = found.source.manifest(&Platform::host())?;
            Ok((found.names, resolved.image.digest))
        });
        match (got, want) {
            (Ok((stored, digest)), None) => {
                // The name is the one that was asked for, wherever it came from.
                let full = if name == "a/b:t" { registry.reference(name) } else { named(name) };
                assert_eq!((stored, digest), (vec![full], pushed.manifest), "{name}");
            }
            (Err(error), Some(want)) => {
                assert_eq!(chain(&error), named(want), "{name}");
                assert_eq!(registry.requests(), [], "{name}");
            }
            (got, want) => panic!("{policy:?} {registries:?} {name}: {got:?}, wanted {want:?}"),
        }
    }
}

#[test]
fn a_file_that_must_exist_and_does_not_is_an_error() {
    let missing = vec!["/no/such/file".into()];
    let policy = SystemFiles { policy: missing.clone(), policy_must_exist: true, ..SystemFiles::default() };
    let registries = SystemFiles { registries: missing, registries_must_exist: true, ..SystemFiles::default() };
    for system in [policy, registries] {
        let reference: Reference = "q.io/a".parse().unwrap();
        let error = Client::connect(reference, &Options { system, tls_verify: None, ..options() }).map(|_| ()).unwrap_err();
        assert_eq!(chain(&error), "/no/such/file: No such file or directory (os error 2)");
    }
}

#[test]
fn a_layout_on_disk_is_a_source_like_any_other() {
    let registry = Registry::start();
    let (pushed, layer) = one(&registry);
    let temp = tempfile::tempdir().unwrap();
    let blobs = temp.path().join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let client = connect(&registry, "a/b:t", &options()).unwrap();
    let found = client.manifest(&Platform::host()).unwrap();
    std::fs::write(blobs.join(pushed.manifest.hex()), &found.image.raw).unwrap();
    std::fs::write(blobs.join(pushed.config.hex()), client.config(&found.image.config).unwrap()).unwrap();
    std::fs::write(blobs.join(pushed.layers[0].hex()), &layer).unwrap();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": pushed.manifest.as_str(), "size": found.image.raw.len(),
        "annotations": {"org.opencontainers.image.ref.name": "app:1"},
    }]});
    std::fs::write(temp.path().join("index.json"), index.to_string()).unwrap();

    let place = |tag: &str| format!("oci:{}{tag}", temp.path().display()).parse::<Place>().unwrap();
    for (tag, name) in [("", None), (":app:1", Some("localhost/app:1"))] {
        let opened = place(tag).open(&options()).unwrap();
        assert_eq!(opened.names.first().map(String::as_str), name);
        let resolved = opened.source.manifest(&Platform::host()).unwrap();
        assert_eq!(resolved.image, found.image);
        let mut bytes = Vec::new();
        opened.source.blob(&resolved.image.layers[0]).unwrap().read_to_end(&mut bytes).unwrap();
        assert!(bytes == layer);
    }
    let missing = place(":other").open(&options()).unwrap().source.manifest(&Platform::host()).unwrap_err();
    assert!(matches!(missing, RegistryError::NotFound { .. }), "{missing:?}");

    let source = place("").open(&options()).unwrap().source;
    std::fs::write(blobs.join(pushed.layers[0].hex()), b"short").unwrap();
    assert!(matches!(source.blob(&found.image.layers[0]).map(|_| ()).unwrap_err(), RegistryError::Length { .. }));
    std::fs::write(blobs.join(pushed.config.hex()), vec![b'x'; found.image.config.size as usize]).unwrap();
    assert!(matches!(source.config(&found.image.config).unwrap_err(), RegistryError::Digest { .. }));
    std::fs::remove_file(blobs.join(pushed.manifest.hex())).unwrap();
    assert!(matches!(source.manifest(&Platform::host()).unwrap_err(), RegistryError::NotFound { .. }));
}
