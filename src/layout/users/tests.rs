use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::metadata::{Containers, Images, Layers, Mountpoints, count_work};

fn layer_id(n: usize) -> LayerId {
    format!("{n:064x}").parse().unwrap()
}

fn list(records: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", records.into_iter().collect::<Vec<_>>().join(","))
}

fn layers(pairs: impl IntoIterator<Item = (usize, Option<usize>)>) -> Layers {
    let record = |(id, parent): (usize, Option<usize>)| match parent {
        None => format!("{{\"id\":\"{}\"}}", layer_id(id)),
        Some(parent) => format!("{{\"id\":\"{}\",\"parent\":\"{}\"}}", layer_id(id), layer_id(parent)),
    };
    Layers::parse(list(pairs.into_iter().map(record)).as_bytes()).unwrap()
}

fn containers(layers: &[usize], prefix: &str) -> Containers {
    let record = |(n, layer): (usize, &usize)| {
        format!(
            "{{\"id\":\"{prefix}-id-{n}\",\"names\":[\"{prefix}{n}\"],\"image\":\"{}\",\"layer\":\"{}\"}}",
            layer_id(9),
            layer_id(*layer)
        )
    };
    Containers::parse(list(layers.iter().enumerate().map(record)).as_bytes()).unwrap()
}

fn mounts(counts: &[(usize, i64)]) -> Mountpoints {
    let record = |(layer, count): &(usize, i64)| format!("{{\"id\":\"{}\",\"path\":\"/m/{layer}\",\"count\":{count}}}", layer_id(*layer));
    Mountpoints::parse(list(counts.iter().map(record)).as_bytes()).unwrap()
}

fn mounted(layers: &[usize]) -> Vec<Mounted> {
    layers.iter().map(|n| Mounted { layer: layer_id(*n).to_string(), path: format!("/k/{n}") }).collect()
}

fn tables(stable: Layers, volatile: Layers) -> Tables {
    Tables {
        layers: stable,
        volatile,
        images: Images::default(),
        containers: Containers::default(),
        volatile_containers: Containers::default(),
        mounts: Mountpoints::default(),
    }
}

fn said(user: Option<&User>) -> Option<String> {
    user.map(ToString::to_string)
}

#[test]
fn a_user_of_a_layer_uses_what_it_is_built_on_and_nothing_else() {
    // 1 <- 2 <- 3 (volatile), 2 <- 4, 5 alone.
    let mut tables = tables(layers([(1, None), (2, Some(1)), (4, Some(2)), (5, None)]), layers([(3, Some(2))]));
    tables.volatile_containers = containers(&[3], "v");
    let users = Users::new(&tables, []);
    for (layer, family, own) in
        [(1, true, false), (2, true, false), (3, true, true), (4, false, false), (5, false, false), (6, false, false)]
    {
        let user = User::Container { id: "v-id-0".into(), name: "v0".into() };
        assert_eq!(users.of_family(&layer_id(layer)), family.then_some(&user), "{layer}");
        assert_eq!(users.of_layer(&layer_id(layer)), own.then_some(&user), "{layer}");
    }
    let image = |n: usize| layer_id(n).as_str().parse().unwrap();
    assert_eq!((users.of_image(&image(9)).count(), users.of_image(&image(1)).count()), (1, 0));
    assert_eq!(tables.children(&layer_id(2)).map(|l| l.id().unwrap().clone()).collect::<Vec<_>>(), [layer_id(4), layer_id(3)]);
}

#[test]
fn u3_the_first_user_is_named() {
    let mut tables = tables(layers([(1, None), (2, Some(1))]), Layers::default());
    let base = layer_id(1);
    let kernel = || mounted(&[2, 1]);
    assert_eq!(said(Users::new(&tables, kernel()).of_family(&base)), Some("the mount at /k/2".into()));
    assert_eq!(said(Users::new(&tables, kernel()).of_layer(&base)), Some("the mount at /k/1".into()));
    tables.mounts = mounts(&[(1, 0), (2, 1)]);
    assert_eq!(said(Users::new(&tables, kernel()).of_family(&base)), Some("the mount at /m/2".into()));
    tables.volatile_containers = containers(&[1], "v");
    assert_eq!(said(Users::new(&tables, kernel()).of_family(&base)), Some("container v0".into()));
    tables.containers = containers(&[7, 2], "c");
    assert_eq!(said(Users::new(&tables, kernel()).of_family(&base)), Some("container c1".into()));
}

#[test]
fn a_container_holds_the_layer_whose_id_or_name_it_has() {
    let mut tables = tables(layers([(1, None), (2, None)]), Layers::default());
    let text = format!("[{{\"id\":\"{}\",\"names\":[\"{}\"],\"image\":\"\",\"layer\":\"\"}}]", layer_id(1), layer_id(2));
    tables.containers = Containers::parse(text.as_bytes()).unwrap();
    let users = Users::new(&tables, []);
    for n in [1, 2] {
        assert_eq!(said(users.of_layer(&layer_id(n))), Some(format!("container {}", layer_id(2))));
        assert_eq!(users.of_family(&layer_id(n)), None);
    }
}

#[test]
fn u1_gathering_looks_at_every_record_once_however_deep_the_chains() {
    let [small, large] = [100, 400].map(|n: usize| {
        // Parents behind their children: the order that a walk in file order takes worst.
        let chain = layers((0..n).rev().map(|id| (id, id.checked_sub(1))));
        let mut tables = tables(chain, Layers::default());
        tables.containers = containers(&(0..n).collect::<Vec<_>>(), "c");
        tables.mounts = mounts(&[(n - 1, 1)]);
        let (users, work) = count_work(|| Users::new(&tables, []));
        let asking = count_work(|| (0..n).filter(|id| users.of_family(&layer_id(*id)).is_some()).count());
        assert_eq!((asking.0, asking.1.looks), (n, 0));
        assert_eq!(users.families.len(), n);
        (work.looks, users.visits)
    });
    // Layers, containers and the mount; each user comes by its layer, each layer by its parent.
    assert_eq!((small, large), ((2 * 100 + 1, 2 * 100), (2 * 400 + 1, 2 * 400)));
}

#[test]
fn only_mounts_inside_of_the_store_are_its_own() {
    let line = |point: &str| format!("36 35 98:0 / {point} rw,noatime shared:1 - overlay overlay rw\n");
    let text =
        ["/s\\040x/overlay/abc/merged", "/s\\040x/overlay", "/s\\040x/overlay-containers/abc/userdata/shm", "/other/overlay/abc"].map(line);
    let want = [Mounted { layer: "abc".into(), path: "/s\\040x/overlay/abc/merged".into() }];
    assert_eq!(parse(format!("{}garbage\n\n\u{fffd}", text.concat()).as_bytes(), "/s x/overlay", |_| None, |_| true), want);
}

/// As podman mounts: relative to its store, or by the paths of layers; by the old call or the new one, which adds its options one by one.
#[test]
fn an_overlay_that_names_layers_uses_them_wherever_it_is() {
    let (link, other, id) = ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "ZYXWVUTSRQPONMLKJIHGFEDCBA", layer_id(5));
    let text = format!(
        "4 2 0:2 / /other/merged rw - overlay overlay ro,lowerdir+=/s/overlay/l/{link}:l/{other},upperdir=/z\n\
         5 2 0:2 / /third rw - overlay overlay ro,lowerdir=/s/overlay/{id}/diff\n\
         6 2 0:2 / /tmp/{id} rw - tmpfs tmpfs rw,size={link}\n"
    );
    let owner = |seen: &LinkId| (seen.as_str() == link).then(|| "mine".to_owned());
    let want = [("mine".to_owned(), "/other/merged"), (id.to_string(), "/third")];
    assert_eq!(parse(text.as_bytes(), "/s/overlay", owner, |_| true), want.map(|(layer, path)| Mounted { layer, path: path.to_owned() }));
}

/// The same image in two stores has layers of the same ids; a copied store has the same LINKIDs.
#[test]
fn what_another_store_mounts_is_not_this_ones() {
    let (link, id) = ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", layer_id(5));
    let text = format!(
        "4 2 0:2 / /other/overlay/{id}/merged rw - overlay overlay ro,lowerdir=l/{link}:{id}/diff,upperdir={id}/diff\n\
         5 2 0:2 / /third rw - overlay overlay ro,lowerdir=/other/overlay/{id}/diff:/other/overlay/l/{link}\n\
         6 2 0:2 / /reader/overlay/{id}/merged rw - overlay overlay ro,lowerdir=/s/overlay/{id}/diff\n\
         7 2 0:2 / /somewhere rw - overlay overlay ro,lowerdir=l/{link}\n"
    );
    let seen = std::cell::RefCell::new(Vec::new());
    let is_ours = |home: &str| {
        seen.borrow_mut().push(home.to_owned());
        home == "/s/overlay"
    };
    let found = parse(text.as_bytes(), "/s/overlay", |_| Some("mine".to_owned()), is_ours);
    // Where neither the part nor the mount point tells, it may be this one's.
    let want = [(id.to_string(), "/reader/overlay/".to_owned() + id.as_str() + "/merged"), ("mine".to_owned(), "/somewhere".to_owned())];
    assert_eq!(found, want.map(|(layer, path)| Mounted { layer, path }));
    assert_eq!(seen.into_inner(), ["/other/overlay"; 5].into_iter().chain(["/s/overlay"]).collect::<Vec<_>>());
    assert_eq!(unescape("/a\\040b\\134040"), "/a b\\040");
}

/// The family of a layer by the definition: added to until nothing is added any more.
fn family(pairs: &[(usize, Option<usize>)], of: usize) -> HashSet<usize> {
    let mut found = HashSet::from([of]);
    loop {
        let more: Vec<usize> = pairs.iter().filter(|(_, parent)| parent.is_some_and(|p| found.contains(&p))).map(|(id, _)| *id).collect();
        let before = found.len();
        found.extend(more);
        if found.len() == before {
            return found;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Circles, ids that come twice with two parents, parents that are not there: all as by the definition.
    #[test]
    fn u2_families_are_those_of_the_definition(
        stable in proptest::collection::vec((0..8usize, proptest::option::of(0..8usize)), 0..12),
        volatile in proptest::collection::vec((0..8usize, proptest::option::of(0..8usize)), 0..4),
        used in proptest::collection::vec(0..8usize, 0..3),
        counted in proptest::collection::vec((0..8usize, 0..2i64), 0..3),
        kernel in proptest::collection::vec(0..8usize, 0..3),
    ) {
        let mut tables = tables(layers(stable.clone()), layers(volatile.clone()));
        tables.containers = containers(&used, "c");
        tables.mounts = mounts(&counted);
        let users = Users::new(&tables, mounted(&kernel));
        let pairs = [stable, volatile].concat();
        for id in 0..8 {
            let family = family(&pairs, id);
            let container = used.iter().position(|layer| family.contains(layer)).map(|n| format!("container c{n}"));
            let mount = || tables.mounts.iter().zip(&counted).find(|(_, (layer, count))| *count > 0 && family.contains(layer)).map(|(m, _)| format!("the mount at {}", m.path()));
            let seen = || kernel.iter().find(|layer| family.contains(layer)).map(|layer| format!("the mount at /k/{layer}"));
            prop_assert_eq!(said(users.of_family(&layer_id(id))), container.or_else(mount).or_else(seen), "{}", id);
        }
    }
}
