//! Storage.conf: where the store lies, and what is refused.
