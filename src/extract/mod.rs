//! Applying a layer's tar to its directory.
