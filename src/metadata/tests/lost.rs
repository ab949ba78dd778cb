//! Tables that are gone are not empty ones.

use super::*;

#[test]
fn m4_a_lost_table_is_not_an_empty_one() {
    let temp = tempfile::tempdir().unwrap();
    let root = Dir::open(temp.path(), Seam::default()).unwrap();
    let (dir, overlay) = (root.mkdir("overlay-layers", 0o700).unwrap(), root.mkdir("overlay", 0o700).unwrap());
    overlay.mkdir("l", 0o700).unwrap();
    overlay.create("a".repeat(64), 0o600).unwrap();
    let table = temp.path().join("overlay-layers/layers.json");
    let states = [(None, "is missing"), (Some(""), "is empty"), (Some("null"), "says null")];
    let put = |bytes: Option<&str>| match bytes {
        Some(bytes) => fs::write(&table, bytes).unwrap(),
        None => assert!(!table.exists()),
    };
    for (bytes, _) in states {
        put(bytes);
        assert!(load::<Layers>(&dir, "layers.json", Some(&overlay)).unwrap().is_empty(), "{bytes:?}");
    }
    fs::remove_file(&table).unwrap();
    overlay.mkdir("b".repeat(64), 0o700).unwrap();
    for (bytes, want) in states {
        put(bytes);
        match load::<Layers>(&dir, "layers.json", Some(&overlay)).unwrap_err() {
            LoadError::Lost { state, example, .. } => assert_eq!((state, example), (want, "b".repeat(64))),
            other => panic!("{other}"),
        }
        assert!(load::<Layers>(&dir, "layers.json", None).unwrap().is_empty());
    }
    put(Some("[]"));
    assert!(load::<Layers>(&dir, "layers.json", Some(&overlay)).unwrap().is_empty());
    put(Some("[{"));
    assert!(matches!(load::<Layers>(&dir, "layers.json", None), Err(LoadError::Damaged { source: ParseError { offset: 2, .. }, .. })));
    fs::File::create(&table).unwrap().set_len(MAX_TABLE_BYTES + 1).unwrap();
    assert!(matches!(load::<Layers>(&dir, "layers.json", None), Err(LoadError::Read { .. })));
}
