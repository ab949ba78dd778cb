//! Locks that exclude Go's, and the LastWrite token.
