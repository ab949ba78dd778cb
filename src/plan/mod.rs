//! What a transaction does, step by step; shared by commit and recovery.
