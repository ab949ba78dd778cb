//! Segments of CRC-framed records with opaque payloads.
