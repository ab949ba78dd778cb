//! Finishing or taking back what a crash left.
