//! Layer directories of the overlay driver.
