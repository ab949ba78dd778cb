//! Pure: no I/O. A JSON list of records, each kept with its own text.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::error::{Cause, ParseError};
use super::work;

/// Lists and objects may lie in each other this deep. Go's own files need five levels.
pub const MAX_DEPTH: usize = 100;

/// One record of a table.
pub trait Record: Sized {
    /// What it is found by.
    type Id: Clone + Eq + Hash;

    /// Reads the text of one record; offsets of errors count from its first byte.
    ///
    /// # Errors
    ///
    /// Text that is not one object, and wrong types in the keys that are needed.
    fn from_json(json: &str) -> Result<Self, ParseError>;

    /// The text of the record, byte for byte as it stands or will stand in the file.
    fn json(&self) -> &str;

    /// Its id, if that can be looked up.
    fn key(&self) -> Option<&Self::Id>;
}

/// Records in file order with an index by id. Of several records with one id the first is found, all are kept.
#[derive(Debug, Clone)]
pub struct Table<R: Record> {
    /// Slot numbers stay what they are and are not used twice; a removed record leaves nothing behind to walk over.
    slots: BTreeMap<usize, R>,
    /// The slot of the next record.
    next: usize,
    index: HashMap<R::Id, Vec<usize>>,
}

impl<R: Record> Default for Table<R> {
    fn default() -> Self {
        Self { slots: BTreeMap::new(), next: 0, index: HashMap::new() }
    }
}

impl<R: Record> Table<R> {
    /// Reads a whole file. No bytes at all and `null` are an empty list, as for Go; whether that is credible is
    /// for the caller to judge.
    ///
    /// # Errors
    ///
    /// The first thing that is not as it should be, with its offset.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut table = Self::default();
        for (offset, json) in split(bytes)? {
            table.push(R::from_json(json).map_err(|e| e.moved(offset))?);
        }
        Ok(table)
    }

    /// The whole file: a compact list, the records in their order, no newline at its end.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.iter().map(|r| r.json().len() + 1).sum::<usize>() + 2);
        out.push(b'[');
        for (n, record) in self.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            out.extend_from_slice(record.json().as_bytes());
        }
        out.push(b']');
        out
    }

    /// The records in file order.
    pub fn iter(&self) -> impl Iterator<Item = &R> {
        self.slots().map(|(_, record)| record)
    }

    /// The record with this id.
    pub fn get(&self, id: &R::Id) -> Option<&R> {
        self.at(self.slot(id)?)
    }

    /// Adds the records of another table whose ids are not here yet: of several tables that are read in turn the first wins.
    pub fn join(&mut self, other: Self) {
        for record in other.slots.into_values() {
            if record.key().is_none_or(|id| self.get(id).is_none()) {
                self.push(record);
            }
        }
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub(super) fn slot(&self, id: &R::Id) -> Option<usize> {
        self.index.get(id)?.first().copied()
    }

    pub(super) fn at(&self, slot: usize) -> Option<&R> {
        work::look();
        self.slots.get(&slot)
    }

    /// The records with their slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = (usize, &R)> {
        self.slots.iter().inspect(|_| work::look()).map(|(slot, record)| (*slot, record))
    }

    /// Appends a record and gives its slot.
    pub(super) fn push(&mut self, record: R) -> usize {
        let slot = self.next;
        self.next += 1;
        if let Some(id) = record.key() {
            self.index.entry(id.clone()).or_default().push(slot);
        }
        self.slots.insert(slot, record);
        slot
    }

    /// Puts another record of the same id into a slot.
    pub(super) fn replace(&mut self, slot: usize, record: R) {
        if let Some(place) = self.slots.get_mut(&slot) {
            *place = record;
        }
    }

    /// Takes every record with this id out, with its slot; the one that `get` found comes first. Were a second one
    /// left, it would come to life.
    pub(super) fn take(&mut self, id: &R::Id) -> Vec<(usize, R)> {
        let slots = self.index.remove(id).unwrap_or_default();
        slots.into_iter().filter_map(|slot| Some((slot, self.slots.remove(&slot)?))).inspect(|_| work::look()).collect()
    }
}

/// Decodes the keys of one record. A list is refused here: serde would take it for the fields in their order.
pub(super) fn decode<T: DeserializeOwned>(json: &str) -> Result<T, ParseError> {
    if !json.trim_start_matches(JSON_SPACE).starts_with('{') {
        return Err(ParseError::new(0, Cause::NotAnObject));
    }
    work::parse(json.len());
    // One level less: the record will stand in a list.
    check_depth(json.as_bytes(), MAX_DEPTH - 1)?;
    serde_json::from_str(json).map_err(|e| json_error(json, &e))
}

const JSON_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// Whether the bytes are one of the two forms, other than `[]`, that Go takes for an empty list.
pub(super) fn says_nothing(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [] => Some("is empty"),
        _ if bytes.trim_ascii() == b"null" => Some("says null"),
        _ => None,
    }
}

/// The texts of the records with their offsets.
fn split(bytes: &[u8]) -> Result<Vec<(usize, &str)>, ParseError> {
    if says_nothing(bytes).is_some() {
        return Ok(Vec::new());
    }
    if let Some(at) = bytes.iter().position(|b| *b == 0) {
        return Err(ParseError::new(at, Cause::Nul));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| ParseError::new(e.valid_up_to(), Cause::NotUtf8))?;
    check_depth(bytes, MAX_DEPTH)?;
    let mut input = serde_json::Deserializer::from_str(text);
    let records = Vec::<&RawValue>::deserialize(&mut input).map_err(|e| json_error(text, &e))?;
    input.end().map_err(|e| ParseError::new(json_error(text, &e).offset, Cause::Trailing))?;
    let start = text.as_ptr().addr();
    Ok(records.into_iter().map(|r| (r.get().as_ptr().addr().saturating_sub(start), r.get())).collect())
}

/// Refuses deep nesting before anything recursive sees it.
fn check_depth(bytes: &[u8], limit: usize) -> Result<(), ParseError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > limit {
                    return Err(ParseError::new(at, Cause::TooDeep));
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// serde_json counts lines and columns (bytes, from 1); files on one line are the rule, so count them back.
fn json_error(text: &str, error: &serde_json::Error) -> ParseError {
    let before: usize = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum();
    let offset = (before + error.column().saturating_sub(1)).min(text.len());
    if error.is_eof() {
        return ParseError::new(text.len(), Cause::Truncated);
    }
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(&*message, |(message, _)| message);
    ParseError::new(offset, Cause::Json(super::error::shorten(message)))
}
