//! What must be there of one writer's images. Nobody else pulls, names or removes them, so what it was told tells what there is.

use std::collections::{BTreeMap, BTreeSet};

use super::schedule::Act;

/// The images of a writer that are there, each with exactly these names.
pub type State = BTreeMap<usize, BTreeSet<String>>;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// It acknowledged.
    Done,
    /// What was meant was not there; nothing changed.
    Refused,
    Killed,
}

/// What may be there: more than one state only behind a kill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    pub states: BTreeSet<State>,
    /// Where the last act was killed: the states that it went through, from each that may have been before it.
    paths: Vec<Vec<State>>,
}

/// A state without what a prune may take at any time.
pub fn named(state: &State) -> State {
    state.iter().filter(|(_, names)| !names.is_empty()).map(|(image, names)| (*image, names.clone())).collect()
}

/// The name that a pull gives.
pub fn main_name(image: usize) -> String {
    format!("localhost/{}:latest", tag(image))
}

/// What an image is called in its layout.
pub fn tag(image: usize) -> String {
    format!("ours{image}")
}

/// Every state that the store goes through, the last one last; nothing where the act is refused.
fn steps(state: &State, act: &Act) -> Option<Vec<State>> {
    let mut now = state.clone();
    let mut through = Vec::new();
    match act {
        Act::Pull(images) => {
            for image in images {
                now.entry(*image).or_default().insert(main_name(*image));
                through.push(now.clone());
            }
            return Some(through);
        }
        Act::Atomic(images) => {
            for image in images {
                now.entry(*image).or_default().insert(main_name(*image));
            }
        }
        Act::Apply { pull, name, remove } => {
            now.entry(*pull).or_default().insert(main_name(*pull));
            give(&mut now, *pull, name)?;
            now.remove(remove)?;
        }
        Act::Tag(image, name) => give(&mut now, *image, name)?,
        Act::Untag(image, name) => now.get_mut(image)?.remove(name).then_some(())?,
        Act::Remove(image) => {
            let names = now.get_mut(image)?;
            names.remove(&main_name(*image)).then_some(())?;
            if names.is_empty() {
                now.remove(image);
            }
        }
        Act::RemoveWhole(image) => drop(now.remove(image)?),
        Act::Prune | Act::Settle | Act::Recover | Act::Repair => {}
    }
    through.push(now);
    Some(through)
}

fn give(state: &mut State, image: usize, name: &str) -> Option<()> {
    state.contains_key(&image).then_some(())?;
    for names in state.values_mut() {
        names.remove(name);
    }
    state.get_mut(&image)?.insert(name.to_owned());
    Some(())
}

impl Model {
    /// An empty store.
    pub fn empty() -> Self {
        Self { states: BTreeSet::from([State::new()]), paths: Vec::new() }
    }

    /// Somebody prunes: an image without a name may be gone at any time.
    pub fn prunable(&mut self) {
        loop {
            let before = self.states.len();
            for state in self.states.clone() {
                for (image, _) in state.iter().filter(|(_, names)| names.is_empty()) {
                    let mut without = state.clone();
                    without.remove(image);
                    self.states.insert(without);
                }
            }
            if self.states.len() == before {
                return;
            }
        }
    }

    /// What may be there behind an act that ended so.
    pub fn ended(&mut self, act: &Act, end: End) -> Result<(), String> {
        let mut next = BTreeSet::new();
        self.paths.clear();
        for state in &self.states {
            let through = steps(state, act);
            match (end, through) {
                (End::Done, Some(through)) => next.extend(through.last().cloned()),
                (End::Refused, None) => drop(next.insert(state.clone())),
                (End::Killed, through) => {
                    let path: Vec<State> = std::iter::once(state.clone()).chain(through.into_iter().flatten()).collect();
                    next.extend(path.iter().cloned());
                    self.paths.push(path.iter().map(named).collect());
                }
                (End::Done, None) | (End::Refused, Some(_)) => {}
            }
        }
        if next.is_empty() {
            return Err(format!("{act:?} ended with {end:?}, which it cannot where there may be {:?}", self.states));
        }
        self.states = next;
        Ok(())
    }

    /// What is there: it must be one of what may be, and is all that may be from now on.
    pub fn seen(&mut self, seen: &State) -> Result<(), String> {
        if !self.states.contains(seen) {
            return Err(format!("there is {seen:?}, and there may be {:?}", self.states));
        }
        self.states = BTreeSet::from([seen.clone()]);
        self.paths.clear();
        Ok(())
    }

    /// Recovery finishes or takes back; what was visible before it is not taken back.
    pub fn recovered(&self, before: &State, after: &State) -> Result<(), String> {
        let (before, after) = (named(before), named(after));
        let goes_on = |path: &Vec<State>| path.iter().position(|state| *state == before) <= path.iter().rposition(|state| *state == after);
        if before == after || self.paths.iter().any(|path| path.contains(&before) && goes_on(path)) {
            return Ok(());
        }
        Err(format!("there was {before:?}, and recovery made it {after:?}; it may only go on along {:?}", self.paths))
    }
}
