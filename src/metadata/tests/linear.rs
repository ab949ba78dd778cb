//! The work on big tables grows with the table, or does not grow at all: counted in records looked at and parsed.

use super::super::work::{Work, count};
use proptest::prelude::*;

use super::properties::odd_record;
use super::*;

#[path = "../../../tests/common/big.rs"]
mod big;

fn images(n: usize) -> Images {
    Images::parse(big::images_json(n).as_bytes()).unwrap()
}

fn layers(n: usize) -> Layers {
    Layers::parse(big::layers_json(n).as_bytes()).unwrap()
}

fn id(n: usize) -> ImageId {
    big::image_id(n).parse().unwrap()
}

fn layer(n: usize) -> LayerId {
    big::layer_id(n).parse().unwrap()
}

/// A small table and one four times as big.
const SIZES: [usize; 2] = [50, 200];

/// The work of `act` on a table of each size.
fn work<T>(table: impl Fn(usize) -> T, act: impl Fn(usize, &mut T)) -> [Work; 2] {
    SIZES.map(|n| {
        let mut table = table(n);
        count(|| act(n, &mut table)).1
    })
}

#[test]
fn loading_and_saving_look_at_every_record_twice_at_most() {
    for n in SIZES {
        let json = big::images_json(n);
        // All but the brackets and the commas.
        let parsed_bytes = json.len() - 2 - (n - 1);
        let (images, loading) = count(|| Images::parse(json.as_bytes()).unwrap());
        assert_eq!(loading, Work { looks: n, parses: n, parsed_bytes });
        let (bytes, saving) = count(|| images.encode());
        assert_eq!(bytes, json.as_bytes());
        assert_eq!(saving, Work { looks: 2 * n, parses: 0, parsed_bytes: 0 });

        let json = big::layers_json(n);
        let records = n * big::LAYERS_PER_IMAGE;
        let (layers, loading) = count(|| Layers::parse(json.as_bytes()).unwrap());
        assert_eq!(loading, Work { looks: records, parses: records, parsed_bytes: json.len() - 2 - (records - 1) });
        let (bytes, saving) = count(|| layers.encode());
        assert_eq!(bytes, json.as_bytes());
        assert_eq!(saving, Work { looks: 2 * records, parses: 0, parsed_bytes: 0 });
    }
}

#[test]
fn an_edit_of_one_image_is_the_same_work_in_a_table_of_any_size() {
    type Edit = fn(&mut Images);
    let edits: [(&str, Edit, usize); 7] = [
        ("tag", |t| t.add_names(&id(7), &["localhost/new:1"]).unwrap(), 1),
        ("a tag that moves", |t| t.add_names(&id(7), &[big::image_name(8)]).unwrap(), 2),
        ("untag", |t| t.remove_names(&id(7), &[big::image_name(7)]).unwrap(), 1),
        ("metadata", |t| t.set_metadata(&id(7), "x").unwrap(), 1),
        ("big data", |t| t.drop_big_data(&id(7), "manifest").unwrap(), 1),
        ("remove", |t| assert!(t.remove(&id(7)).is_some()), 0),
        ("look up", |t| assert_eq!(t.by_name(&big::image_name(7)).unwrap(), t.by_layer(&layer(23)).next().unwrap()), 0),
    ];
    for (what, edit, parses) in edits {
        let [small, large] = work(images, |_, table| edit(table));
        assert_eq!(small, large, "{what}");
        assert_eq!(small.parses, parses, "{what}");
        assert!(small.looks <= 6, "{what}: {small:?}");
    }
}

#[test]
fn many_names_of_one_image_are_one_parse_of_each_record_they_change() {
    for names in SIZES {
        let names: Vec<String> = (0..names).map(|n| format!("localhost/app:{n}")).collect();
        let mut table = images(10);
        let [from, to] = [id(1), id(2)];
        assert_eq!(count(|| table.add_names(&from, &names).unwrap()).1.parses, 1);
        assert_eq!(count(|| table.add_names(&to, &names).unwrap()).1.parses, 2, "one record loses them, one gets them");
        assert_eq!(table.get(&from).unwrap().names(), [big::image_name(1)]);
        assert_eq!(count(|| table.remove_names(&to, &names).unwrap()).1.parses, 1);
        assert_eq!(table.get(&to).unwrap().names(), [big::image_name(2)]);
    }
}

#[test]
fn a_name_that_wandered_through_all_images_left_no_trail() {
    let name = ["localhost/wanderer:latest"];
    let [small, large] = work(images, |n, table| (0..n).for_each(|to| table.add_names(&id(to), &name).unwrap()));
    // Each move changes two records, the first but one.
    assert_eq!((small.parses, large.parses), (2 * SIZES[0] - 1, 2 * SIZES[1] - 1));
    assert_eq!(large.looks - small.looks, small.looks.div_ceil(SIZES[0]) * (SIZES[1] - SIZES[0]));
    let mut table = images(SIZES[1]);
    (0..SIZES[1]).for_each(|to| table.add_names(&id(to), &name).unwrap());
    let (holder, found) = count(|| table.by_name(name[0]).unwrap());
    assert_eq!((holder.id().unwrap(), found.looks), (&id(SIZES[1] - 1), 1));
}

#[test]
fn deleting_all_images_and_layers_looks_at_each_a_fixed_number_of_times() {
    let delete_all = |n: usize, (images, layers): &mut (Images, Layers)| {
        for n in (0..n).rev() {
            images.remove(&id(n)).unwrap();
            for n in (n * big::LAYERS_PER_IMAGE..(n + 1) * big::LAYERS_PER_IMAGE).rev() {
                assert_eq!((images.by_layer(&layer(n)).count(), layers.children(&layer(n)).count()), (0, 0));
                layers.remove(&layer(n)).unwrap();
            }
        }
        assert_eq!((images.encode(), layers.encode()), (b"[]".to_vec(), b"[]".to_vec()));
    };
    let [small, large] = work(|n| (images(n), layers(n)), delete_all);
    assert_eq!(small, Work { looks: SIZES[0] * (1 + big::LAYERS_PER_IMAGE), parses: 0, parsed_bytes: 0 });
    assert_eq!(large.looks, 4 * small.looks);
}

#[test]
fn what_came_and_went_is_not_walked_over() {
    let mut table = layers(10);
    let base = layer(0);
    let before = count(|| table.children(&base).count());
    for n in 0..1000 {
        let new = NewLayer::new(layer(1_000_000 + n), Some(base.clone()), SystemTime::UNIX_EPOCH).build().unwrap();
        table.insert(new).unwrap();
        if n > 0 {
            // The one before, so that the last slot is always taken.
            table.remove(&layer(1_000_000 + n - 1)).unwrap();
        }
    }
    table.remove(&layer(1_000_999)).unwrap();
    assert_eq!(count(|| table.children(&base).count()), before);
    assert_eq!(count(|| table.iter().count()).1.looks, table.len());
    assert_eq!(table.encode(), big::layers_json(10).as_bytes());
}

#[test]
fn shadowed_names_are_found_in_one_walk() {
    let [small, large] = work(images, |_, table| assert_eq!(table.shadowed_names().count(), 0));
    assert_eq!((small.looks, large.looks), (SIZES[0], SIZES[1]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// After any edits every look-up gives what a table gives that was read anew from the same bytes.
    #[test]
    fn look_ups_are_those_of_a_table_read_anew(
        records in proptest::collection::vec(odd_record(), 1..8),
        edits in proptest::collection::vec((0..6u32, 0..6u8, proptest::collection::vec("[a-d]", 0..3)), 1..12),
    ) {
        let file = format!("[{}]", records.iter().map(|(_, json)| json.clone()).collect::<Vec<_>>().join(","));
        let mut images = Images::parse(file.as_bytes()).unwrap();
        for (n, how, names) in edits {
            let id = image_id(n);
            let manifest = format!("manifest-{n}");
            if images.get(&id).is_none() && how != 5 {
                continue;
            }
            match how {
                0 => images.add_names(&id, &names).unwrap(),
                1 => images.remove_names(&id, &names).unwrap(),
                2 => images.set_names(&id, &names).unwrap(),
                3 => images.set_big_data(&id, BigData::new(manifest, 1, &Digest::of(&[n as u8 % 2]))).unwrap(),
                4 => drop((images.drop_big_data(&id, &manifest).unwrap(), names.is_empty().then(|| images.remove(&id)))),
                _ => {
                    let new = NewImage { names, ..NewImage::new(id, Some(layer_id(n % 2))) }.build().unwrap();
                    images.unite(&new).or_else(|e| if matches!(e, EditError::OtherTopLayer { .. }) { Ok(()) } else { Err(e) }).unwrap();
                }
            }
        }
        let again = Images::parse(&images.encode()).unwrap();
        prop_assert_eq!(images.len(), again.len());
        for name in ["a", "b", "c", "d"] {
            prop_assert_eq!(images.by_name(name), again.by_name(name));
        }
        for n in 0..2u8 {
            let (layer, digest) = (layer_id(n.into()), Digest::of(&[n]));
            prop_assert!(images.by_layer(&layer).eq(again.by_layer(&layer)));
            prop_assert!(images.by_digest(&digest).eq(again.by_digest(&digest)));
        }
        prop_assert!(images.shadowed_names().eq(again.shadowed_names()));
    }
}
