//! The JSON tables of the store.
