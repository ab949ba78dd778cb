//! Pure: no I/O. What becomes of a dead transaction.

use crate::plan::{Intent, Step, Table};

/// What becomes of a dead transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Every step before the pivot is taken back.
    Back,
    /// Every step is done.
    Forward,
    /// Its layers stay as complete, unneeded layers; its images are given up, because a layer of theirs is gone.
    Abandon,
}

/// What is there of a dead transaction whose intent is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    /// Whether the prepared layers.json still waits.
    pub layers_marker: bool,
    /// Whether the prepared images.json still waits.
    pub images_marker: bool,
    /// Whether the prepared layers.json without the layers that go still waits.
    pub remaining_marker: bool,
    /// Whether every layer of every image is in layers.json, complete, with the LINKID of the intent.
    pub chains_complete: bool,
    /// Whether the staged data of every image is in staging or in its place.
    pub data_present: bool,
}

/// Decides from the markers.
pub fn decide(intent: &Intent, signs: Signs) -> Decision {
    let waits = |table: Table| match table {
        Table::Layers => signs.layers_marker,
        Table::Images => signs.images_marker,
        Table::RemainingLayers => signs.remaining_marker,
    };
    let pivot = intent.steps.iter().find_map(|step| match step {
        Step::Switch(table) => Some(*table),
        _ => None,
    });
    match pivot {
        // No table changes: forward once the intent is durable.
        None => Decision::Forward,
        Some(table) if waits(table) => Decision::Back,
        Some(_) => {
            if signs.images_marker && !(signs.chains_complete && signs.data_present) {
                Decision::Abandon
            } else {
                Decision::Forward
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(tables: &[Table]) -> Intent {
        Intent { seq: 1, steps: tables.iter().map(|t| Step::Switch(*t)).collect(), ..Intent::default() }
    }

    #[test]
    fn r1_markers_decide() {
        use Decision::{Abandon, Back, Forward};
        use Table::{Images, Layers, RemainingLayers as Rest};
        // tables, those that wait, whole
        let table: [(&[Table], &[Table], bool, Decision); 16] = [
            (&[Layers, Images], &[Layers, Images], true, Back),
            (&[Layers, Images], &[Layers, Images], false, Back),
            (&[Layers, Images], &[Images], true, Forward),
            (&[Layers, Images], &[Images], false, Abandon),
            (&[Layers, Images], &[], true, Forward),
            (&[Layers, Images], &[], false, Forward),
            (&[Images], &[Images], true, Back),
            (&[Images], &[], false, Forward),
            (&[], &[], false, Forward),
            (&[Images, Rest], &[Images, Rest], true, Back),
            (&[Images, Rest], &[Rest], false, Forward),
            (&[Rest], &[Rest], true, Back),
            (&[Rest], &[], true, Forward),
            (&[Layers, Images, Rest], &[Images, Rest], true, Forward),
            (&[Layers, Images, Rest], &[Images, Rest], false, Abandon),
            (&[Layers, Images, Rest], &[Rest], false, Forward),
        ];
        for (tables, waiting, whole, want) in table {
            let waits = |table| waiting.contains(&table);
            let signs = Signs {
                layers_marker: waits(Layers),
                images_marker: waits(Images),
                remaining_marker: waits(Rest),
                chains_complete: whole,
                data_present: true,
            };
            assert_eq!(decide(&intent(tables), signs), want, "{tables:?} {signs:?}");
            let signs = Signs { chains_complete: true, data_present: whole, ..signs };
            assert_eq!(decide(&intent(tables), signs), want, "{tables:?} {signs:?}");
        }
    }
}
