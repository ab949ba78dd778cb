//! Big data of images comes and goes as Go would write it.

use super::*;

fn with_items(keys: &[&str]) -> (Images, ImageId) {
    let id = image_id(1);
    let mut new = NewImage::new(id.clone(), Some(layer_id(1)));
    new.big_data = keys.iter().map(|key| BigData::new(*key, key.len() as u64, &Digest::of(key.as_bytes()))).collect();
    let mut images = Images::default();
    images.insert(new.build().unwrap()).unwrap();
    (images, id)
}

#[test]
fn m5_a_dropped_item_leaves_no_trace_but_the_digest() {
    let (manifest, other) = (Digest::of(b"manifest"), Digest::of(b"manifest-2"));
    let (mut images, id) = with_items(&["config", "manifest", "manifest-2"]);
    images.drop_big_data(&id, "manifest").unwrap();
    let config = Digest::of(b"config");
    let want = format!(
        "[{{\"id\":\"{id}\",\"digest\":\"{manifest}\",\"layer\":\"{}\",\"big-data-names\":[\"config\",\"manifest-2\"],\
         \"big-data-sizes\":{{\"config\":6,\"manifest-2\":10}},\"big-data-digests\":{{\"config\":\"{config}\",\"manifest-2\":\"{other}\"}},\
         \"created\":\"{ZERO_TIME}\"}}]",
        layer_id(1)
    );
    assert_eq!(text(images.encode()), want);
    // Found by the digest that stays, and no longer by that of an item that went.
    assert_eq!(images.by_digest(&manifest).count(), 1);
    images.drop_big_data(&id, "manifest-2").unwrap();
    assert_eq!((images.by_digest(&manifest).count(), images.by_digest(&other).count()), (1, 0));
}

#[test]
fn m5_with_the_last_item_all_three_keys_go() {
    let (mut images, id) = with_items(&["config"]);
    images.drop_big_data(&id, "config").unwrap();
    assert_eq!(text(images.encode()), format!("[{{\"id\":\"{id}\",\"layer\":\"{}\",\"created\":\"{ZERO_TIME}\"}}]", layer_id(1)));
    images.set_big_data(&id, BigData::new("config", 6, &Digest::of(b"config"))).unwrap();
    assert_eq!(images.encode(), with_items(&["config"]).0.encode());
}

#[test]
fn m1_a_drop_of_what_is_not_there_changes_no_byte() {
    let id = image_id(1);
    let file = format!("[{{ \"id\" : \"{id}\", \"big-data-names\":[\"a\"] , \"x\":1.50 }}]");
    let mut images = Images::parse(file.as_bytes()).unwrap();
    images.drop_big_data(&id, "b").unwrap();
    assert_eq!(text(images.encode()), file);
    assert!(matches!(images.drop_big_data(&image_id(2), "a"), Err(EditError::Unknown { .. })));
}

#[test]
fn an_item_that_only_a_part_of_the_record_knows_is_dropped_too() {
    let id = image_id(1);
    let digest = Digest::of(b"");
    for trace in
        ["\"big-data-names\":[\"a\",\"a\"]", "\"big-data-sizes\":{\"a\":1}", &format!("\"big-data-digests\":{{\"a\":\"{digest}\"}}")]
    {
        let mut images = Images::parse(format!("[{{\"id\":\"{id}\",{trace}}}]").as_bytes()).unwrap();
        images.drop_big_data(&id, "a").unwrap();
        assert_eq!(text(images.encode()), format!("[{{\"id\":\"{id}\"}}]"), "{trace}");
    }
}
