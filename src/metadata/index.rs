//! Pure: no I/O. Which records of a table can be found by something other than their id.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Slots of a table by a key that several records may have.
///
/// It is exact: whoever takes a record out of its slot, or puts another one there, takes the old keys out. An
/// entry that is only skipped when it is met is met again by every later look-up, and a name that moves through
/// 10,000 images would leave 10,000 of them.
#[derive(Debug, Clone)]
pub(super) struct Index<K> {
    /// Ordered, so that the records come in file order and one of many leaves without the others being moved.
    slots: HashMap<K, BTreeSet<usize>>,
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self { slots: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Index<K> {
    /// Adds a slot to a key or takes it from there. A record may have the key twice.
    pub(super) fn set(&mut self, key: &K, slot: usize, there: bool) {
        match self.slots.get_mut(key) {
            Some(slots) if there => drop(slots.insert(slot)),
            None if there => drop(self.slots.insert(key.clone(), BTreeSet::from([slot]))),
            Some(slots) => {
                slots.remove(&slot);
                if slots.is_empty() {
                    self.slots.remove(key);
                }
            }
            None => {}
        }
    }

    /// The slots with this key, in file order.
    pub(super) fn get<Q>(&self, key: &Q) -> impl DoubleEndedIterator<Item = usize>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.slots.get(key).into_iter().flatten().copied()
    }
}
