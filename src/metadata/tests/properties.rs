//! What holds for every table.

use proptest::prelude::*;

use super::*;

/// A record with an id, spaces, and keys nobody knows.
pub(super) fn odd_record() -> impl Strategy<Value = (u32, String)> {
    (0..6u32, "[ \\n]{0,2}", "[a-z<>é\u{2028}]{0,5}", any::<i64>(), proptest::collection::vec("[a-c]", 0..3)).prop_map(
        |(n, space, word, number, names)| {
            let id = image_id(n);
            let names = serde_json::to_string(&names).unwrap();
            (
                n,
                format!(
                    "{{{space}\"x-{word}\":{number},\"id\"{space}:\"{id}\",\"names\":{names},\"y\":[{space}{{\"{word}\":null}}]{space}}}"
                ),
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn m1_an_edit_of_one_record_leaves_the_text_of_all_others(records in proptest::collection::vec(odd_record(), 1..8), n in 0..6u32) {
        let file = format!("[{}]", records.iter().map(|(_, json)| json.clone()).collect::<Vec<_>>().join(",\n"));
        let mut images = Images::parse(file.as_bytes()).unwrap();
        let known = images.set_metadata(&image_id(n), "m").is_ok();
        prop_assert_eq!(known, records.iter().any(|(m, _)| *m == n));
        let first = records.iter().position(|(m, _)| *m == n);
        for (at, (image, (_, json))) in images.iter().zip(&records).enumerate() {
            if Some(at) == first {
                prop_assert_eq!(image.metadata(), "m");
            } else {
                prop_assert_eq!(image.json(), json);
            }
        }
        let encoded = images.encode();
        prop_assert_eq!(Images::parse(&encoded).unwrap().encode(), encoded);
    }

    #[test]
    fn every_name_has_one_owner_after_it_was_set(
        records in proptest::collection::vec(odd_record(), 1..8),
        names in proptest::collection::vec("[a-c]", 0..3),
    ) {
        let mut images = Images::parse(format!("[{}]", records.iter().map(|(_, json)| json.clone()).collect::<Vec<_>>().join(",")).as_bytes()).unwrap();
        let id = image_id(records[0].0);
        images.add_names(&id, &names).unwrap();
        for name in &names {
            prop_assert_eq!(images.by_name(name).unwrap(), images.get(&id).unwrap());
            prop_assert_eq!(images.iter().filter(|i| i.names().contains(name)).count(), 1);
        }
        let again = Images::parse(&images.encode()).unwrap();
        prop_assert!(again.iter().eq(images.iter()));
    }

    #[test]
    fn mutated_tables_never_panic_and_what_parses_encodes_to_itself(
        which in 0..16usize,
        cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..5u8, any::<u8>()), 1..6),
    ) {
        let (name, mut bytes) = all_fixtures().swap_remove(which);
        for (a, b, how, byte) in cuts {
            if bytes.is_empty() { break }
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            let (low, high) = (a.min(b), a.max(b));
            match how {
                0 => bytes[a] = byte,
                1 => bytes.truncate(high),
                2 => drop(bytes.drain(low..high)),
                3 => { let piece = bytes[low..high].to_vec(); bytes.splice(a..a, piece); }
                _ => bytes[a] = b"{}[]\",:\\n0"[usize::from(byte) % 10],
            }
        }
        match round_trip(&name, &bytes) {
            Ok(encoded) => prop_assert_eq!(round_trip(&name, &encoded).unwrap(), encoded),
            Err(error) => prop_assert!(error.offset <= bytes.len(), "{}", error),
        }
    }
}
