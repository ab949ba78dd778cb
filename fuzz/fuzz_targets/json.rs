//! Any bytes as the JSON that comes from outside: tables of the store, seals, history. Refused or read, never a panic; and a
//! table that nothing has changed is written as it was.
#![no_main]

use cstor_rs::history::History;
use cstor_rs::metadata::{Image, Images, Layer, Layers};
use cstor_rs::overlay::Seal;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(layers) = Layers::parse(bytes) {
        assert_eq!(Layers::parse(&layers.encode()).expect("our own table").encode(), layers.encode());
    }
    if let Ok(images) = Images::parse(bytes) {
        assert_eq!(Images::parse(&images.encode()).expect("our own table").encode(), images.encode());
        for image in images.iter() {
            Images::default().unite(image).ok();
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        drop((Layer::from_json(text), Image::from_json(text)));
    }
    drop(Seal::parse(bytes));
    drop(History::parse(bytes, |record| Some(record.to_owned())));
});
