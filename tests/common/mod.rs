//! What several test programs share.
#![allow(dead_code)]
#![allow(missing_docs)]

pub mod fixture;
pub mod once;
