//! Pure: no I/O. The structs into which Go decodes manifests, indexes and configs.
//!
//! Each table is the union of what image-spec (up to 1.1), c/image and docker have for a document, because podman
//! decodes one document into several of them: an OCI config also into docker's struct.

use super::manifest::LAYERS_MAX;
use super::shape::Shape::{self, Any, Base64, Empty, Flag, List, Map, Object, Text, Time, Whole};

/// The most images an index may list.
pub(super) const INDEX_MAX: usize = 1000;
/// The most entries of a config's history: each layer and what made none.
pub(super) const HISTORY_MAX: usize = 10_000;
/// Lists of words: their bytes are limited, their number is not.
const WORDS: Shape = List(&Text, usize::MAX);

const PLATFORM: Shape =
    Object(&[("architecture", Text), ("os", Text), ("os.version", Text), ("os.features", WORDS), ("variant", Text), ("features", WORDS)]);

const DESCRIPTOR: Shape = Object(&[
    ("mediaType", Text),
    ("digest", Text),
    ("size", Whole),
    ("urls", WORDS),
    ("annotations", Map(&Text)),
    ("data", Base64),
    ("platform", PLATFORM),
    ("artifactType", Text),
]);

/// A manifest or an index, of OCI or docker; and what tells those of docker schema 1.
pub(super) const MANIFEST: Shape = Object(&[
    ("schemaVersion", Whole),
    ("mediaType", Text),
    ("artifactType", Text),
    ("config", DESCRIPTOR),
    ("layers", List(&DESCRIPTOR, LAYERS_MAX)),
    ("manifests", List(&DESCRIPTOR, INDEX_MAX)),
    ("subject", DESCRIPTOR),
    ("annotations", Map(&Text)),
    ("fsLayers", Any),
    ("history", Any),
    ("signatures", Any),
]);

/// The most images that an archive of `docker save` may hold.
const SAVED_MAX: usize = 1000;

/// manifest.json of `docker save`.
pub(super) const SAVED: Shape = List(
    &Object(&[
        ("Config", Text),
        ("RepoTags", WORDS),
        ("Layers", List(&Text, LAYERS_MAX)),
        ("Parent", Text),
        ("LayerSources", Map(&DESCRIPTOR)),
    ]),
    SAVED_MAX,
);

const HEALTH: Shape = Object(&[
    ("Test", WORDS),
    ("Interval", Whole),
    ("Timeout", Whole),
    ("StartPeriod", Whole),
    ("StartInterval", Whole),
    ("Retries", Whole),
]);

const RUN: Shape = Object(&[
    ("Hostname", Text),
    ("Domainname", Text),
    ("User", Text),
    ("AttachStdin", Flag),
    ("AttachStdout", Flag),
    ("AttachStderr", Flag),
    ("ExposedPorts", Map(&Empty)),
    ("Tty", Flag),
    ("OpenStdin", Flag),
    ("StdinOnce", Flag),
    ("Env", WORDS),
    ("Cmd", WORDS),
    ("Healthcheck", HEALTH),
    ("ArgsEscaped", Flag),
    ("Image", Text),
    ("Volumes", Map(&Empty)),
    ("WorkingDir", Text),
    ("Entrypoint", WORDS),
    ("NetworkDisabled", Flag),
    ("MacAddress", Text),
    ("OnBuild", WORDS),
    ("Labels", Map(&Text)),
    ("StopSignal", Text),
    ("StopTimeout", Whole),
    ("Shell", WORDS),
]);

const HISTORY: Shape = Object(&[("created", Time), ("created_by", Text), ("author", Text), ("comment", Text), ("empty_layer", Flag)]);

/// The config of an image, of OCI or docker.
pub(super) const CONFIG: Shape = Object(&[
    ("id", Text),
    ("parent", Text),
    ("comment", Text),
    ("created", Time),
    ("container", Text),
    ("container_config", RUN),
    ("docker_version", Text),
    ("author", Text),
    ("config", RUN),
    ("architecture", Text),
    ("variant", Text),
    ("os", Text),
    ("os.version", Text),
    ("os.features", WORDS),
    ("Size", Whole),
    ("rootfs", Object(&[("type", Text), ("diff_ids", List(&Text, LAYERS_MAX))])),
    ("history", List(&HISTORY, HISTORY_MAX)),
]);
