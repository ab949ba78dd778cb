//! The codes: those of the program, of the document, of the injuries.

use std::collections::BTreeMap;

use cstor_rs::fsck::Code;

use crate::injury;

/// The document lists every code, each with its level, and no other.
pub fn documented() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/fsck.md")).unwrap();
    let table = text.split("| code | level | repair |").nth(1).unwrap().split("\n\n").next().unwrap();
    let row = |line: &str| -> Option<(String, String)> {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        Some((cells.next()?.trim_end_matches('`').to_owned(), cells.next()?.to_owned()))
    };
    let listed: BTreeMap<String, String> = table.lines().filter_map(row).collect();
    let known: BTreeMap<String, String> =
        Code::ALL.iter().map(|code| (code.as_str().to_owned(), code.level().as_str().to_owned())).collect();
    assert_eq!(listed, known);
}

/// Every code that an injury is to be found under is one of the program's.
pub fn known() {
    let all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let unknown: Vec<_> = injury::all().flat_map(|one| one.codes).filter(|code| !all.contains(code)).collect();
    assert_eq!(unknown, Vec::<&&str>::new());
    let mut names: Vec<&str> = injury::all().map(|one| one.name).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "two injuries have one name");
}
