//! Any bytes as a segment: read as what they are, never a panic; and only what was written reads as an intent.
#![no_main]

use cstor_rs::ids::TxnId;
use cstor_rs::journal::{Chain, Kind, State, header, parse_header, scan};
use cstor_rs::plan;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let txn: TxnId = "00112233445566778899aabbccddeeff".parse().expect("32 hex digits");
    if let Some(read) = parse_header(bytes) {
        assert_eq!(header(&read), bytes[..68]);
    }
    if let State::Intent(payload) = scan(bytes, &txn) {
        // Behind its header a segment begins with the record that this payload makes.
        let record = Chain::new(&txn).record(Kind::Intent, &payload);
        assert!(bytes[68..].starts_with(&record));
    }
    // The payload is under a checksum: given one, anything may stand in it.
    let mut chain = Chain::new(&txn);
    chain.record(Kind::Intent, bytes);
    if let Ok(intent) = plan::decode(bytes) {
        let again = plan::encode(&intent).expect("what was decoded");
        assert_eq!(plan::decode(&again).expect("what was encoded"), intent);
    }
});
